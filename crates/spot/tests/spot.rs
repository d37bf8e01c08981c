//! `SpotPubSub` against the laws of the trait: nodes in a cluster over TCP.

use std::sync::Arc;

use spot::{Spot, SpotOptions, SpotPubSub, conformance::Group};

const PAYLOAD_MAX: usize = 2 << 20;

async fn group(members: usize) -> Group {
    let mut nodes: Vec<(Spot, String)> = Vec::new();
    for _ in 0..members {
        let mut options = SpotOptions::standard();
        options.node.payload_len_max = PAYLOAD_MAX;
        let node = Spot::new(options);
        let endpoint = node.bind("tcp://127.0.0.1:0").await.expect("a free port");
        for (_, other) in &nodes {
            node.cluster_add(other).await.expect("the other node is there");
        }
        nodes.push((node, endpoint));
    }
    // A node is in the group when it knows the others: they may have been added before it heard of it.
    for (node, _) in &nodes {
        while node.status().len() + 1 < members {
            tokio::task::yield_now().await;
        }
        node.cluster_sync(spot::conformance::DEADLINE).await.expect("all nodes are there");
    }
    let members = nodes.into_iter().map(|(node, _)| Arc::new(SpotPubSub::new(node)) as _).collect();
    Group { members, payload_max: PAYLOAD_MAX, guard: Box::new(()) }
}

spot::conformance_tests!(group);
