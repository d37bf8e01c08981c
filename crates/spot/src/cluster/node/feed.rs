//! From a topic's log to the outboxes of its subscribers.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Amount, Cursor, LinkId, Links, Node, Output, Protocol, TopicId};
use crate::cluster::{
    command::{Command, code},
    log::Payload,
    record::{DataHeader, Kind, put_define},
    zmtp::frame::{MORE, put_frame, put_header},
};

/// The bytes before a payload, made once for all peers that want the same.
#[derive(Debug, Default)]
pub(super) struct Heads {
    record: Option<DataHeader>,
    pub(super) plain: [BytesMut; 4],
}

impl Heads {
    /// For another message.
    pub(super) fn clear(&mut self) {
        self.record = None;
        self.plain.iter_mut().for_each(BytesMut::clear);
    }
}

/// What a cursor is fed with.
pub(super) struct Feed<'a> {
    pub(super) alias: u32,
    pub(super) kind: Kind,
    pub(super) epoch: u64,
    pub(super) name: &'a str,
    pub(super) bytes_max: usize,
    pub(super) messages_max: usize,
}

pub(super) fn alias_of(id: TopicId, up: bool) -> u32 {
    (id as u32) * 2 + 2 + u32::from(up)
}

/// Puts one message into a peer's outbox.
#[inline]
pub(super) fn emit(
    links: &mut Links,
    cursor: &mut Cursor,
    feed: &Feed<'_>,
    heads: &mut Heads,
    sequence: u64,
    payload: Payload<'_>,
) -> bool {
    let link = &mut links[cursor.link];
    if link.protocol == Protocol::Extended {
        if let Some((first, last)) = cursor.lost.take() {
            link.outbox.put_command(&Command::Gap { topic: feed.name, first, last }, link.delimited);
        }
        if !cursor.defined {
            let mut define = BytesMut::new();
            put_define(&mut define, feed.alias, feed.kind, feed.epoch, sequence, feed.name);
            link.outbox.put_record(&define);
            cursor.defined = true;
        }
        let head = heads.record.get_or_insert_with(|| DataHeader::new(feed.alias, payload.len()));
        link.outbox.put_message(head.as_bytes(), payload);
    } else {
        cursor.lost = None;
        let code = if link.protocol == Protocol::Notifying { code::MESSAGE } else { code::PUBLISH };
        let which = usize::from(link.delimited) * 2 + usize::from(code == code::MESSAGE);
        put_plain(&mut link.outbox, &mut heads.plain[which], link.delimited, code, feed.name, payload);
        cursor.acked = sequence;
    }
    cursor.next = sequence + 1;
    cursor.sent_bytes += payload.len() as u64;
    cursor.stalled = false;
    link.outbox.schedule()
}

pub(super) fn put_plain(
    outbox: &mut super::Outbox,
    head: &mut BytesMut,
    delimited: bool,
    code: u8,
    name: &str,
    payload: Payload<'_>,
) {
    if head.is_empty() {
        if delimited {
            put_frame(head, MORE, b"");
        }
        head.put_slice(&[MORE, 1, code]);
        put_frame(head, MORE, name.as_bytes());
        put_header(head, 0, payload.len());
    }
    outbox.put_plain(head, payload);
}

impl Node {
    pub(super) fn cursor_add(&mut self, id: TopicId, link: LinkId, next: u64, window: Amount) {
        let Some(local) = self.topics[id].local.as_mut() else { return };
        let cursor = Cursor {
            link,
            next,
            acked: next - 1,
            limit: (next - 1).saturating_add(window.messages),
            sent_bytes: 0,
            limit_bytes: window.bytes,
            defined: false,
            lost: None,
            dropped: 0,
            stalled: false,
            moved_at: self.now,
        };
        let cursors = &mut local.flow.cursors;
        match cursors.iter_mut().find(|cursor| cursor.link == link) {
            Some(old) => *old = cursor,
            None => cursors.push(cursor),
        }
        self.links[link].cursors.insert(id);
        self.acked_changed(id);
        self.pump(id, link);
    }

    /// Feeds a peer what it lags behind.
    pub(super) fn pump(&mut self, id: TopicId, link: LinkId) {
        if self
            .topics
            .get(id)
            .is_some_and(|topic| topic.uplink.as_ref().is_some_and(|u| u.link == Some(link)))
        {
            self.pump_uplink(id);
        }
        let Some(topic) = self.topics.get_mut(id) else { return };
        let Some(local) = topic.local.as_mut() else { return };
        let Some(flow) = local.flow.get_mut() else { return };
        let Some(cursor) = flow.cursors.iter_mut().find(|cursor| cursor.link == link) else { return };
        let feed = Feed {
            alias: alias_of(id, false),
            kind: if topic.open { Kind::Open } else { Kind::Message },
            epoch: local.epoch,
            name: topic.name.as_str(),
            bytes_max: self.options.send_bytes_max,
            messages_max: self.options.send_messages_max,
        };
        let mut write = false;
        let mut behind = false;
        while cursor.next < flow.log.next() || cursor.lost.is_some() {
            let outbox = &mut self.links[link].outbox;
            let len = flow.log.get(cursor.next).map_or(0, |payload| payload.len());
            if !outbox.has_room(len, feed.bytes_max, feed.messages_max) {
                behind = true;
                break;
            }
            if cursor.next < flow.log.first() {
                let first = cursor.lost.map_or(cursor.next, |(first, _)| first);
                let (last, missed) = (flow.log.first() - 1, flow.log.first() - cursor.next);
                cursor.lost = Some((first, last));
                cursor.next = flow.log.first();
                cursor.dropped += missed;
                self.dropping.insert(id);
                self.links[link].dropped += missed;
                self.counters.dropped += missed;
                continue;
            }
            let sequence = cursor.next;
            let Some(payload) = flow.log.get(sequence).filter(|_| cursor.may_send(len)) else {
                if let Some((first, last)) = cursor.lost.take() {
                    let link = &mut self.links[link];
                    if link.protocol == Protocol::Extended {
                        link.outbox
                            .put_command(&Command::Gap { topic: feed.name, first, last }, link.delimited);
                        write |= link.outbox.schedule();
                    }
                    continue;
                }
                // The credit brings us back.
                break;
            };
            self.heads.clear();
            write |= emit(&mut self.links, cursor, &feed, &mut self.heads, sequence, payload);
        }
        if !behind {
            self.links[link].lagging.remove(&id);
        } else {
            self.links[link].lagging.insert(id);
        }
        if write {
            self.outputs.push_back(Output::Write(link));
        }
        if self.links[link].protocol != Protocol::Extended {
            self.acked_changed(id);
        }
    }

    fn pump_link(&mut self, link: LinkId) {
        let lagging: Vec<TopicId> = self.links[link].lagging.iter().copied().collect();
        for id in lagging {
            match self.topics.contains(id) {
                true => self.pump(id, link),
                false => {
                    self.links[link].lagging.remove(&id);
                }
            }
        }
    }

    /// Takes what is to be written to a link; what was taken before counts as written. False if there is nothing.
    pub fn take_outbox(&mut self, id: LinkId, into: &mut Vec<Bytes>) -> bool {
        let Some(link) = self.links.get_mut(id) else { return false };
        let some = link.outbox.take(into);
        if !link.lagging.is_empty() {
            self.pump_link(id);
        }
        if self.wants_room {
            self.room();
        }
        some
    }
}
