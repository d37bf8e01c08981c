//! What `spot status` shows.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use spot::{
    Topic, TopicPattern,
    cluster::{Arrival, LinkStatus, NodeId, PeerStatus, TopicInfo},
};

use super::text::column;

/// Topics shown at the most, the busiest first; the rest is a number.
const TOPICS_SHOWN: usize = 40;

/// What was counted since the last look.
#[derive(Debug, Default)]
pub(super) struct Table {
    rates: BTreeMap<Topic, Rate>,
    missed_here: u64,
    /// Messages that owners reported as lost, of patterns rather than of one topic.
    missed_elsewhere: u64,
    /// What each node had counted at the last look: published, sent, delivered.
    before: BTreeMap<NodeId, [u64; 3]>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    messages: u64,
    bytes: u64,
    missed: u64,
}

impl Table {
    pub(super) fn count(&mut self, arrival: &Arrival) {
        match arrival {
            Arrival::Message { topic, payload } => {
                let rate = self.rates.entry(topic.clone()).or_default();
                rate.messages += 1;
                rate.bytes += payload.len() as u64;
            }
            Arrival::Lagged { missed } => self.missed_here += missed,
            Arrival::Gap { topic, first, last } => {
                let missed = last.map_or(1, |last| last.saturating_sub(*first) + 1);
                match topic {
                    TopicPattern::Exact(topic) => {
                        self.rates.entry(topic.clone()).or_default().missed += missed;
                    }
                    TopicPattern::Prefix(_) => self.missed_elsewhere += missed,
                }
            }
            _ => {} // No message, and no loss of one.
        }
    }

    /// Writes what was counted in `interval`, and begins anew.
    pub(super) fn write(
        &mut self,
        out: &mut impl Write,
        links: &[LinkStatus],
        nodes: &[PeerStatus],
        topics: &[TopicInfo],
        interval: Duration,
    ) -> io::Result<()> {
        let counted = std::mem::take(self);
        writeln!(
            out,
            "{:<32} {:<12} {:>8} {:>10} {:>9} {:>9} {:>9}",
            "PEER", "STATE", "TOPICS", "QUEUED", "DROPPED", "REFUSED", "SILENT"
        )?;
        for link in links {
            let state = link.state.to_string();
            let state = state.split(':').next().unwrap_or_default();
            writeln!(
                out,
                "{:<32} {:<12} {:>8} {:>10} {:>9} {:>9} {:>8.1}s",
                link.name,
                state,
                link.topics,
                link.queued_bytes,
                link.dropped,
                link.refused,
                link.silence.as_secs_f64(),
            )?;
        }
        let per_second = |count: u64| count as f64 / interval.as_secs_f64();
        writeln!(
            out,
            "\n{:<32} {:>8} {:>6} {:>12} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}",
            "NODE",
            "TOPICS",
            "LINKS",
            "PUBLISHED/s",
            "SENT/s",
            "DELIVERED/s",
            "DROPPED",
            "GAPS",
            "REFUSED",
            "HEARTBEAT"
        )?;
        for node in nodes {
            let counts = [node.counters.published, node.counters.sent, node.counters.delivered];
            // Of a node that is seen for the first time nothing is known yet.
            let before = counted.before.get(&node.node).copied().unwrap_or(counts);
            let [published, sent, delivered] =
                [0, 1, 2].map(|i| per_second(counts[i].saturating_sub(before[i])));
            let name = format!("{} {}", node.node, node.name);
            let (dropped, gaps) = (node.counters.dropped, node.counters.gaps);
            writeln!(
                out,
                "{name:<32} {:>8} {:>6} {published:>12.1} {sent:>12.1} {delivered:>12.1} {dropped:>9} {gaps:>9} {:>9} {:>8.1}s",
                node.topics,
                node.links,
                node.counters.refused,
                node.heartbeat.as_secs_f64(),
            )?;
            self.before.insert(node.node, counts);
        }
        let mut rows: BTreeMap<Topic, Rate> =
            topics.iter().map(|info| (info.topic.clone(), Rate::default())).collect();
        rows.extend(counted.rates);
        let total = rows.values().fold(Rate::default(), |sum, rate| Rate {
            messages: sum.messages + rate.messages,
            bytes: sum.bytes + rate.bytes,
            missed: sum.missed + rate.missed,
        });
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|(a, x), (b, y)| y.messages.cmp(&x.messages).then_with(|| a.cmp(b)));
        writeln!(out, "\n{:<32} {:>12} {:>14} {:>9}", "TOPIC", "MESSAGES/s", "BYTES/s", "MISSED")?;
        let mut row = |name: &str, rate: Rate| {
            let (messages, bytes) = (per_second(rate.messages), per_second(rate.bytes));
            let name = column(name, 32);
            writeln!(out, "{name} {messages:>12.1} {bytes:>14.0} {:>9}", rate.missed)
        };
        for (topic, rate) in rows.iter().take(TOPICS_SHOWN) {
            row(topic.as_str(), *rate)?;
        }
        row(&format!("all {} topics", rows.len()), total)?;
        if counted.missed_elsewhere > 0 {
            writeln!(out, "{} messages of unknown topics were lost", counted.missed_elsewhere)?;
        }
        if counted.missed_here > 0 {
            writeln!(out, "{} messages were not counted: too many for this terminal", counted.missed_here)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_and_begin_anew() {
        let mut table = Table::default();
        let topic = |name: &str| Topic::new(name).unwrap();
        for _ in 0..10 {
            table.count(&Arrival::Message { topic: topic("busy"), payload: vec![0; 100].into() });
        }
        table.count(&Arrival::Gap { topic: topic("lossy").into(), first: 3, last: Some(7) });
        table.count(&Arrival::Lagged { missed: 2 });
        let mut show = || {
            let mut out = Vec::new();
            table.write(&mut out, &[], &[], &[], Duration::from_secs(2)).unwrap();
            String::from_utf8(out).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let first = show();
        assert!(first.contains("busy 5.0 500 0 lossy 0.0 0 5 all 2 topics 5.0 500 5"), "{first}");
        assert!(first.contains("2 messages were not counted"));
        assert!(show().contains("all 0 topics 0.0 0 0"));
    }
}
