//! Where the partitions of a topic belong: numbers only, the same on every node.
//!
//! A topic `orders` in 8 partitions is 8 topics `orders#0` to `orders#7`. A key belongs to the partition that its hash says,
//! for ever; a partition belongs to the member that wins a draw among those that are there. The draw is rendezvous hashing:
//! every member draws a number for every partition, the highest wins. Whoever joins takes over what it wins and nothing
//! else moves; whoever leaves loses what it had and nothing else moves.

use super::command::NodeId;

/// Partitions of one topic at most.
pub const PARTITIONS_MAX: u32 = 4096;

/// FNV-1a of 64 bits.
fn fnv(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// FNV alone is too regular to draw with: the finisher of splitmix64.
fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// Which of `count` partitions a key belongs to.
pub fn partition_of(key: &[u8], count: u32) -> u32 {
    (mix(fnv(&[key])) % u64::from(count.max(1))) as u32
}

/// Which member a partition belongs to.
pub fn winner(topic: &str, partition: u32, members: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    let draw = |node: NodeId| mix(fnv(&[topic.as_bytes(), &partition.to_le_bytes(), &node.0.to_le_bytes()]));
    members.into_iter().max_by_key(|node| (draw(*node), *node))
}

/// The topic that is a partition.
pub fn partition_name(topic: &str, partition: u32) -> String {
    format!("{topic}#{partition}")
}

/// The topic and number of a partition, if the name is that of one.
pub fn parse_partition(name: &str) -> Option<(&str, u32)> {
    let (topic, number) = name.rsplit_once('#')?;
    let partition: u32 = number.parse().ok()?;
    (partition.to_string() == number && partition < PARTITIONS_MAX).then_some((topic, partition))
}

/// The topic by whose existence a node says that it is a member: it has no messages.
pub fn member_name(topic: &str, count: u32, node: NodeId) -> String {
    format!("{topic}@{count}/{:032x}", node.0)
}

/// What the name of a member's topic says, if it is one.
pub fn parse_member(name: &str) -> Option<(&str, u32, NodeId)> {
    let (rest, node) = name.rsplit_once('/')?;
    let (topic, count) = rest.rsplit_once('@')?;
    let count: u32 = count.parse().ok()?;
    let node = NodeId(u128::from_str_radix(node, 16).ok().filter(|_| node.len() == 32)?);
    (1..=PARTITIONS_MAX).contains(&count).then_some((topic, count, node))
}

/// Bits of an epoch that count how often a partition has moved; the rest tells claims apart that were made at once.
const MOVES_SHIFT: u32 = 40;

/// The epoch of the next owner of a partition whose last one had `before`, 0 if there was none.
pub fn next_epoch(before: u64, node: NodeId, incarnation: u64) -> u64 {
    // A peer may name any epoch; the last count stays the last.
    let moves = ((before >> MOVES_SHIFT) + 1).min(u64::MAX >> MOVES_SHIFT);
    let claim = mix(fnv(&[&node.0.to_le_bytes(), &incarnation.to_le_bytes()]));
    moves << MOVES_SHIFT | claim >> (64 - MOVES_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(members: &[u128]) -> Vec<NodeId> {
        (0..512).map(|k| winner("orders", k, members.iter().map(|n| NodeId(*n))).unwrap()).collect()
    }

    #[test]
    fn keys_and_partitions_stay_where_they_were_put_by_earlier_versions() {
        assert_eq!(["a", "b", "ann", ""].map(|key| partition_of(key.as_bytes(), 8)), [0, 5, 0, 3]);
        assert_eq!(
            owners(&[1, 2, 3])[..12].iter().map(|n| n.0).collect::<Vec<_>>(),
            [1, 2, 1, 2, 2, 2, 2, 3, 3, 2, 2, 1]
        );
    }

    #[test]
    fn who_joins_takes_its_share_and_nothing_else_moves() {
        for nodes in 1..20_u128 {
            let before = owners(&(1..=nodes).collect::<Vec<_>>());
            let after = owners(&(1..=nodes + 1).collect::<Vec<_>>());
            let moved: Vec<_> = (0..512).filter(|k| before[*k] != after[*k]).collect();
            assert!(moved.iter().all(|k| after[*k] == NodeId(nodes + 1)), "{nodes}");
            // Its share, within what chance allows: four standard deviations.
            let share = 512.0 / (nodes as f64 + 1.0);
            let off = (moved.len() as f64 - share).abs();
            assert!(off < 4.0 * share.sqrt(), "{nodes}: {} moved, {share} expected", moved.len());
        }
    }

    #[test]
    fn who_leaves_loses_its_own_and_nothing_else_moves() {
        let before = owners(&[1, 2, 3, 4, 5]);
        let after = owners(&[1, 2, 4, 5]);
        for k in 0..512 {
            assert_eq!(before[k] != after[k], before[k] == NodeId(3));
        }
    }

    #[test]
    fn names_are_read_as_written() {
        assert_eq!(parse_partition(&partition_name("a#b", 17)), Some(("a#b", 17)));
        for name in ["a", "a#", "a#x", "a#01", "a#+1", "a#9999"] {
            assert_eq!(parse_partition(name), None, "{name}");
        }
        let member = member_name("a/b@c", 8, NodeId(0xfeed));
        assert_eq!(parse_member(&member), Some(("a/b@c", 8, NodeId(0xfeed))));
        for name in
            ["a@8", "a@8/feed", "a/0000000000000000000000000000feed", "a@0/0000000000000000000000000000feed"]
        {
            assert_eq!(parse_member(name), None, "{name}");
        }
    }

    #[test]
    fn an_epoch_is_later_than_the_one_before_and_differs_by_claimant() {
        let first = next_epoch(0, NodeId(1), 1);
        assert_ne!(first, next_epoch(0, NodeId(2), 1));
        assert_ne!(first, next_epoch(0, NodeId(1), 2));
        assert!(
            (1..100)
                .try_fold(first, |epoch, n| Some(next_epoch(epoch, NodeId(n), 1)).filter(|e| *e > epoch))
                .is_some()
        );
    }
}
