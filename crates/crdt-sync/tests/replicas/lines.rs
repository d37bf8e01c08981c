//! Managers over lines that lose, repeat and reorder, that are sealed with keys that change, and on which all is played again.

use std::sync::Mutex;

use async_trait::async_trait;
use spot::{PubSubError, Published, Subscription, SubscriptionOptions, TopicPattern};

use super::*;

/// A transport that loses every fifth message, brings every fifth twice, and every fourth behind the next one: by lot, out of
/// a seed.
struct Bad {
    inner: MemoryPubSub,
    lot: Mutex<u64>,
    late: Mutex<Option<(Topic, Bytes)>>,
}

impl Bad {
    fn new(seed: u64) -> Self {
        Self { inner: MemoryPubSub::new(), lot: Mutex::new(seed), late: Mutex::default() }
    }

    fn below(&self, n: u64) -> u64 {
        let mut lot = self.lot.lock().unwrap();
        *lot ^= *lot << 13;
        *lot ^= *lot >> 7;
        *lot ^= *lot << 17;
        *lot % n
    }
}

#[async_trait]
impl PubSub for Bad {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        let times = match self.below(5) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        if times == 1 && self.below(4) == 0 {
            let before = self.late.lock().unwrap().replace((topic.clone(), payload));
            if let Some((topic, payload)) = before {
                self.inner.publish(&topic, payload).await?;
            }
            return Ok(Published::default());
        }
        for _ in 0..times {
            self.inner.publish(topic, payload.clone()).await?;
        }
        let late = self.late.lock().unwrap().take();
        if let Some((topic, payload)) = late {
            self.inner.publish(&topic, payload).await?;
        }
        Ok(Published::default())
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        self.inner.subscribe(pattern, options).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// One that takes no patch, and says nothing.
struct Stuck(MemoryPubSub);

#[async_trait]
impl PubSub for Stuck {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        if topic.as_str().ends_with("patches") {
            std::future::pending::<()>().await;
        }
        self.0.publish(topic, payload).await
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        self.0.subscribe(pattern, options).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// A client that hears that its patch is durable reads the document at once, and finds it there.
#[tokio::test(start_paused = true)]
async fn what_is_told_as_stored_is_in_the_document_however_long_sending_takes() {
    let group = Group { pubsub: Arc::new(Stuck(MemoryPubSub::new())), ..Group::new() };
    let replica = group.join(1, EncodingFormat::Binary).await;
    let mut stored = replica.manager.stored();
    let mut client = Model::new(SessionId::new(SessionId::USER_MIN.get() + 100).unwrap());
    let mut last = 0;
    let mut patches = ["a", "b", "c"]
        .map(|key| {
            if last == 0 {
                client.api().root(json!({})).unwrap();
            }
            client.api().obj("").unwrap().set([(key, 1)]).unwrap();
            let patch = client.flush().unwrap();
            let bytes = Bytes::copy_from_slice(patch.as_bytes());
            PatchRecord::new(std::mem::replace(&mut last, patch.next_time() - 1), bytes).unwrap()
        })
        .into_iter();
    let mut relay = || replica.manager.relay(patches.next().unwrap());
    let told = tokio::join!(relay(), relay(), relay());
    assert!(told.0.is_ok() && told.1.is_ok() && told.2.is_ok());
    stored.changed().await.unwrap();
    assert_eq!(replica.document.view(), client.view());
}

/// `{"1": [0, 1, …], "2": […], …}`: each replica adds to its own list.
async fn adds(replicas: &[Replica], edits: std::ops::Range<i64>) {
    for edit in edits {
        for (number, replica) in replicas.iter().enumerate() {
            let list = format!("/{}", number + 1);
            replica.edit(|model| model.api().arr(list.as_str())?.ins(edit as usize, [edit])).await;
        }
    }
}

fn lists(replicas: u64, edits: i64) -> Json {
    let list = |number: u64| (number.to_string(), Json::from_iter(0..edits));
    (1..=replicas).map(list).collect()
}

/// Answers are lost as well, and who asks again waits longer each time.
const BAD_PATIENCE: Duration = Duration::from_secs(300);

/// The line stays as bad as it is: what is lost is asked for, and the answers are lost as well.
#[tokio::test(start_paused = true)]
async fn all_agree_over_a_line_that_loses_repeats_and_reorders() {
    for (seed, group) in [(1, Group::new()), (2, Group::with_dag()), (3, Group::new())] {
        let group = Group { pubsub: Arc::new(Bad::new(seed)), ..group };
        let first = group.join(1, EncodingFormat::Binary).await;
        first.edit(|model| model.api().root(json(lists(3, 0)))).await;
        let mut replicas = vec![first];
        for (number, format) in [(2, EncodingFormat::Compact), (3, EncodingFormat::Binary)] {
            let replica = group.join(number, format).await;
            replica.sees_within(BAD_PATIENCE, &json(lists(3, 0))).await;
            replicas.push(replica);
        }
        adds(&replicas, 0..20).await;
        for replica in &replicas {
            replica.sees_within(BAD_PATIENCE, &json(lists(3, 20))).await;
        }
        // What has come twice is in it once, and what came early waits for nothing any more.
        let all = replicas[0].manager.status().await.unwrap().stored;
        for replica in &replicas {
            let has_all = |status: &SyncStatus| status.stored == all && status.now.parked == 0;
            replica.stands(&format!("it has all, seed {seed}"), has_all).await;
            let status = replica.manager.status().await.unwrap();
            assert_eq!((status.counters.refused, status.not_applied), (0, 0), "seed {seed}");
        }
        replicas[0].folds_within(BAD_PATIENCE, &all).await;
    }
}

#[cfg(feature = "crypto")]
mod sealed {
    use crdt_sync::crypto::{Keyring, SealedPubSub, SealingKey};

    use super::{
        super::{
            guarded::{ALICE, BOB, memory},
            *,
        },
        *,
    };

    fn key(id: u32) -> SealingKey {
        SealingKey::new(id, &[id as u8; 32])
    }

    /// All that has been said on both topics of the group so far.
    async fn recorded(pubsub: &dyn PubSub) -> impl FnMut() -> Vec<(Topic, Bytes)> + use<> {
        let mut heard = Vec::new();
        for topic in ["example-doc-patches", "example-doc-sync"] {
            let topic = Topic::new(topic).unwrap();
            heard.push(pubsub.subscribe(topic.into(), SubscriptionOptions::STANDARD).await.unwrap());
        }
        move || {
            let mut all = Vec::new();
            for subscription in &mut heard {
                while let Some(received) = subscription.try_recv() {
                    let spot::Received::Message(spot::Message { topic, payload }) = received else {
                        panic!("{received:?}")
                    };
                    all.push((topic, payload));
                }
            }
            all
        }
    }

    /// Alice, Bob and Carol go over to another key while they write, as the documentation says; Dave, who has left, is not given
    /// it, and Carol is given it late.
    #[tokio::test(start_paused = true)]
    async fn keys_rotate_while_managers_write() {
        let plain: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
        let group = Group::new();
        let (mut lines, mut replicas) = (Vec::new(), Vec::new());
        for number in 1..=4_u8 {
            let line = SealedPubSub::new(Arc::clone(&plain), Keyring::new(key(1)), [number; 16]);
            lines.push(Arc::new(line));
            let pubsub = Arc::clone(&lines[usize::from(number) - 1]) as Arc<dyn PubSub>;
            let group = Group { pubsub, ..group.clone() };
            replicas.push(group.join(number.into(), EncodingFormat::Binary).await);
        }
        replicas[0].edit(|model| model.api().root(json(lists(3, 0)))).await;
        for replica in &replicas {
            replica.sees(&json(lists(3, 0))).await;
        }
        let dave = replicas.pop().unwrap();
        adds(&replicas, 0..5).await;
        dave.sees(&json(lists(3, 5))).await;
        for line in &lines[..2] {
            line.with_ring(|ring| assert_eq!(ring.add_to_open(key(2)), None));
        }
        adds(&replicas, 5..10).await;
        dave.sees(&json(lists(3, 10))).await;
        for line in &lines[..2] {
            line.with_ring(|ring| assert!(ring.seal_with(2)));
        }
        // Carol reads nothing of this, and is read.
        adds(&replicas, 10..15).await;
        replicas[0].sees(&replicas[1].document.view()).await;
        lines[2].with_ring(|ring| assert_eq!(ring.add(key(2)), None));
        for replica in &replicas {
            replica.sees(&json(lists(3, 15))).await;
        }
        for line in &lines[..3] {
            line.with_ring(|ring| ring.remove(1));
        }
        adds(&replicas, 15..20).await;
        for replica in &replicas {
            replica.sees(&json(lists(3, 20))).await;
        }
        // Who has the old key only has what was sealed with it, and says nothing that anybody hears.
        dave.edit(|model| model.api().arr("/1")?.ins(0, ["from Dave"])).await;
        let heard = lines[0].counters().refused;
        dave.manager.sync().await.unwrap();
        let refused = async {
            while lines[0].counters().refused == heard {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.expect("what Dave says is refused");
        for replica in &replicas {
            assert_eq!(replica.document.view(), json(lists(3, 20)));
        }
        let has = Json::from(&dave.document.view())["2"].as_array().map(Vec::len);
        assert!(has < Some(15), "{has:?}");
    }

    /// Everything that was said in a group with signatures is said once more by somebody who has heard it: patches, pages, and words
    /// of what each had then, which was less.
    #[tokio::test(start_paused = true)]
    async fn what_is_played_again_changes_nothing() {
        for group in [Group::new(), Group::with_dag()] {
            let mut recorded = recorded(&*group.pubsub).await;
            let (alice, bob) =
                (group.join_as(1, ALICE, memory()).await, group.join_as(2, BOB, memory()).await);
            alice.edit(|model| model.api().root(json(lists(2, 0)))).await;
            bob.sees(&json(lists(2, 0))).await;
            let replicas = [alice, bob];
            adds(&replicas, 0..10).await;
            for replica in &replicas {
                replica.sees(&json(lists(2, 10))).await;
            }
            let all = replicas[0].manager.status().await.unwrap().stored;
            let known = |status: &SyncStatus| {
                status.peers.iter().all(|peer| peer.behind_ticks == Some(0) && peer.holds_ticks == 0)
            };
            for replica in &replicas {
                replica.stands("each knows that the other has all", known).await;
            }
            let before = [0, 1].map(|at: usize| replicas[at].document.view());
            let mut said = recorded();
            // Words come by the clock, and who has heard the last patch may know that all is there before one was said.
            let has_words =
                |said: &[(Topic, Bytes)]| said.iter().any(|(topic, _)| topic.as_str().ends_with("sync"));
            let words_come = async {
                while !has_words(&said) {
                    tokio::time::sleep(LOOK).await;
                    said.extend(recorded());
                }
            };
            tokio::time::timeout(PATIENCE, words_come).await.expect("words are said");
            let mut applied = Vec::new();
            for replica in &replicas {
                applied.push(replica.manager.status().await.unwrap().counters);
            }
            for (topic, payload) in said {
                group.pubsub.publish(&topic, payload).await.unwrap();
            }
            for (replica, before) in replicas.iter().zip(&applied) {
                let heard = |status: &SyncStatus| status.counters.known >= before.known + 10;
                replica.stands("what is known comes again", heard).await;
                let status = replica.manager.status().await.unwrap();
                assert_eq!(
                    (status.counters.applied, status.counters.refused),
                    (before.applied, before.refused)
                );
                assert_eq!((&status.stored, status.malformed, status.now.parked), (&all, 0, 0));
                // What an old word says is known to be more by now, so that it holds nothing back.
                assert!(status.peers.iter().all(|peer| peer.holds_ticks == 0), "{:?}", status.peers);
            }
            assert_eq!(before, [0, 1].map(|at: usize| replicas[at].document.view()));
            for replica in &replicas {
                replica.folds(&all).await;
            }
            adds(&replicas, 10..12).await;
            for replica in &replicas {
                replica.sees(&json(lists(2, 12))).await;
            }
        }
    }
}
