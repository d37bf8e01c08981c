//! From publishers to an owner elsewhere.

use bytes::{Bytes, BytesMut};

use super::{
    LinkId, Log, Node, Output, Protocol, TopicId, Uplink,
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
        let uplink = self.topics[id].uplink.get_or_insert_with(|| {
            Box::new(Uplink {
                link: Some(link),
                log: Log::new(1),
                next: 1,
                defined: false,
                limit: UPLINK_WINDOW.messages,
                sent_bytes: 0,
                limit_bytes: UPLINK_WINDOW.bytes,
                refused_at: None,
            })
        });
        if uplink.log.len() >= self.options.retained_messages_max
            || uplink.log.bytes() >= self.options.retained_bytes_max
        {
            return Publish::Full;
        }
        uplink.log.push(Payload::Shared(payload));
        if uplink.link.is_none() {
            uplink.link = Some(link);
        }
        self.pump_uplink(id);
        Publish::Done(report)
    }

    pub(super) fn pump_uplink(&mut self, id: TopicId) {
        let (bytes_max, messages_max) = (self.options.send_bytes_max, self.options.send_messages_max);
        let incarnation = self.options.incarnation;
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
                // Numbers begin anew when a topic was forgotten, so its life here is part of the epoch.
                let epoch = incarnation.wrapping_add(topic.generation);
                put_define(&mut define, alias, Kind::Publish, epoch, uplink.next, topic.name.as_str());
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
        let Some(uplink) = self.topics[id].uplink.as_mut() else { return };
        let owner = owner.filter(|link| self.links[*link].protocol == Protocol::Extended);
        if uplink.link != owner {
            uplink.link = owner;
            uplink.begin();
            self.pump_uplink(id);
        }
    }
}
