//! From publishers to an owner elsewhere.

use bytes::{Bytes, BytesMut};

use super::{
    Event, LinkId, Log, Node, Output, Protocol, TopicId, Uplink,
    credit::UPLINK_WINDOW,
    feed::{alias_of, put_plain},
    outward::{Publish, Report},
};
use crate::cluster::{
    command::code,
    log::Payload,
    record::{DataHeader, Kind, put_define},
};

impl Node {
    pub(super) fn publish_remote(&mut self, id: TopicId, payload: &Bytes) -> Publish {
        // Where its stream goes already, it goes on: who may own a topic is asked when its owner changes.
        let known = self.topics[id].uplink.as_ref().and_then(|uplink| uplink.link);
        let known = known.filter(|link| self.links.contains(*link));
        let Some(link) = known.or_else(|| self.owner_link(id)) else { return Publish::Full };
        let report = Report { queued: 1, ..Report::default() };
        if self.links[link].protocol != Protocol::Extended {
            let link_state = &mut self.links[link];
            let (bytes_max, messages_max) = (self.options.send_bytes_max, self.options.send_messages_max);
            if !link_state.outbox.has_room(payload.len(), bytes_max, messages_max) {
                return Publish::Full;
            }
            self.heads.clear();
            put_plain(
                &mut link_state.outbox,
                &mut self.heads.plain[0],
                link_state.delimited,
                code::PUBLISH,
                self.topics[id].name.as_str(),
                Payload::Shared(payload),
            );
            if link_state.outbox.schedule() {
                self.outputs.push_back(Output::Write(link));
            }
            return Publish::Done(report);
        }
        if let Some(uplink) = &self.topics[id].uplink
            && (uplink.log.len() >= self.options.retained_messages_max
                || uplink.log.bytes() >= self.options.retained_bytes_max)
        {
            return Publish::Full;
        }
        self.uplink_push(id, link, payload);
        Publish::Done(report)
    }

    /// Puts a message behind those for the owner, whatever the bounds are: it was within others before.
    fn uplink_push(&mut self, id: TopicId, link: LinkId, payload: &Bytes) {
        match &mut self.topics[id].uplink {
            Some(uplink) if uplink.link.is_some() => uplink.log.push(Payload::Shared(payload)),
            _ => self.uplink_begin(id, link).log.push(Payload::Shared(payload)),
        }
        self.pump_uplink(id);
    }

    /// The stream to an owner that nothing was sent to yet.
    fn uplink_begin(&mut self, id: TopicId, link: LinkId) -> &mut Uplink {
        let owner = self.owner_epoch(id);
        let generations = &mut self.generations;
        let incarnation = self.options.incarnation;
        let uplink = self.topics[id].uplink.get_or_insert_with(|| {
            *generations += 1;
            Box::new(Uplink {
                link: None,
                owner,
                epoch: incarnation.wrapping_add(*generations),
                log: Log::new(1),
                next: 1,
                defined: false,
                limit: UPLINK_WINDOW.messages,
                sent_bytes: 0,
                acked_bytes: 0,
                limit_bytes: UPLINK_WINDOW.bytes,
                away_since: None,
                refused_at: None,
            })
        });
        (uplink.link, uplink.owner) = (Some(link), owner);
        uplink
    }

    /// What waited here for room, unnumbered, goes to the node that has the topic now.
    pub(super) fn pass_on(&mut self, id: TopicId, waited: Vec<Bytes>) {
        for payload in waited {
            match self.owner_link(id).filter(|link| self.links[*link].protocol == Protocol::Extended) {
                Some(link) => self.uplink_push(id, link, &payload),
                None => {
                    if self.publish_remote(id, &payload) == Publish::Full {
                        self.counters.dropped += 1;
                    }
                }
            }
        }
    }

    /// Nobody will take what was published to an owner that is gone.
    pub(super) fn uplink_ends(&mut self, id: TopicId) {
        let Some(uplink) = self.topics[id].uplink.take() else { return };
        let messages = uplink.log.len() as u64;
        if messages > 0 {
            self.counters.dropped += messages;
            let topic = self.topics[id].name.clone();
            self.outputs.push_back(Output::Event(Event::Undelivered { topic, messages }));
        }
        self.room();
    }

    /// The epoch under which another node owns a topic, 0 if it has none.
    fn owner_epoch(&self, id: TopicId) -> u64 {
        let owner = self.remote_owner(id).and_then(|peer| self.peers[peer].topics.get(&id));
        owner.copied().unwrap_or(0)
    }

    pub(super) fn pump_uplink(&mut self, id: TopicId) {
        let (bytes_max, messages_max) = (self.options.send_bytes_max, self.options.send_messages_max);
        let topic = &mut self.topics[id];
        let Some(uplink) = topic.uplink.as_mut() else { return };
        let Some(link_id) = uplink.link else { return };
        let Some(link) = self.links.get_mut(link_id) else { return };
        let alias = alias_of(id, true);
        while let Some(payload) = uplink.log.get(uplink.next) {
            if !uplink.may_send(payload.len()) {
                break;
            }
            if !link.outbox.has_room(payload.len(), bytes_max, messages_max) {
                link.lagging.insert(id);
                break;
            }
            if !uplink.defined {
                let mut define = BytesMut::new();
                put_define(&mut define, alias, Kind::Publish, uplink.epoch, uplink.next, topic.name.as_str());
                link.outbox.put_record(&define);
                uplink.defined = true;
            }
            link.outbox.put_message(DataHeader::new(alias, payload.len()).as_bytes(), payload);
            uplink.sent_bytes += payload.len() as u64;
            uplink.next += 1;
        }
        if link.outbox.schedule() {
            self.outputs.push_back(Output::Write(link_id));
        }
    }

    /// Sends what is not acknowledged to where the owner is now.
    pub(super) fn uplink_reroute(&mut self, id: TopicId, owner: Option<LinkId>) {
        let epoch = self.owner_epoch(id);
        let Some(uplink) = self.topics[id].uplink.as_mut() else { return };
        let owner = owner.filter(|link| self.links[*link].protocol == Protocol::Extended);
        if (uplink.link, uplink.owner) != (owner, epoch) {
            (uplink.link, uplink.owner) = (owner, epoch);
            uplink.begin();
            self.pump_uplink(id);
        }
    }
}
