//! Whom a replica has known, over its restarts.
//!
//! What a peer may lack is not folded, also if it is cut off for days ([`absent_max`](crate::session::SessionOptions)). A
//! replica that is started again while they are cut off must know that there is somebody, or it would fold alone what the
//! others lack. So the names of those who were found and did not say goodbye stand beside the patches, in the store's
//! [note](crate::PatchStore::keep_note); what each of them has is not known after a restart, and until it is heard nothing is folded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, BufMut as _, Bytes};

use super::{SyncError, driver::Driver};
use crate::{PatchStoreError, PeerId, session::Input};

/// The form of a note; `docs/formats/patch-store.md` has it.
const VERSION: u8 = 1;

/// A peer, and since when it is gone, in seconds since 1970; 0 if it is there.
type Member = (PeerId, u64);

fn write(members: &[Member]) -> Bytes {
    let mut note = vec![VERSION];
    for (id, gone_since) in members {
        note.put_u64(*gone_since);
        note.put_u8(id.as_str().len() as u8);
        note.put_slice(id.as_str().as_bytes());
    }
    note.into()
}

/// `None` if it is no note of this form.
fn read(mut note: &[u8]) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    if note.is_empty() {
        return Some(members);
    }
    if note.get_u8() != VERSION {
        return None;
    }
    while !note.is_empty() {
        let gone_since = note.try_get_u64().ok()?;
        let len = usize::from(note.try_get_u8().ok()?);
        let (name, rest) = note.split_at_checked(len)?;
        note = rest;
        members.push((PeerId::new(std::str::from_utf8(name).ok()?).ok()?, gone_since));
    }
    Some(members)
}

#[expect(clippy::disallowed_methods, reason = "a driver: how long a peer is gone is counted over restarts")]
fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Who was known before this start, and for how much longer each is remembered.
///
/// # Errors
/// If the note is damaged, or of a later version.
pub(super) fn known_before(
    note: &[u8],
    absent_max: Duration,
) -> Result<Vec<(PeerId, Duration)>, PatchStoreError> {
    let members = read(note).ok_or_else(|| PatchStoreError::Corrupt {
        place: "the note of who was there".to_owned(),
        reason: "it is damaged, or a later version wrote it".to_owned(),
    })?;
    let now = seconds_since_1970();
    let left = |gone_since: u64| match gone_since {
        0 => absent_max,
        since => absent_max.saturating_sub(Duration::from_secs(now.saturating_sub(since))),
    };
    let members = members.into_iter().map(|(id, gone_since)| (id, left(gone_since)));
    Ok(members.filter(|(_, left)| !left.is_zero()).collect())
}

impl Driver {
    /// Notes who is there, if that has changed: it must be known after a restart. Who is absent is kept for as long as it is
    /// said from its last word on, so that with somebody absent each word may have changed it.
    pub(super) async fn note_members(&mut self) -> Result<(), SyncError> {
        if !self.members_changed && self.machine.status().absent == 0 {
            return Ok(());
        }
        let (now, absent_max) = (seconds_since_1970(), self.parts.options.absent_max);
        let gone_since =
            |left: Duration| now.saturating_sub(absent_max.saturating_sub(left).as_secs()).max(1);
        let members = self.machine.members(self.now()).into_iter();
        let members: Vec<Member> = members.map(|(id, left)| (id, left.map_or(0, gone_since))).collect();
        self.parts.store.keep_note(write(&members)).await?;
        self.members_changed = false;
        Ok(())
    }

    /// The same where it may be done later: nothing is folded before.
    pub(super) async fn note_members_soon(&mut self) {
        if let Err(error) = self.note_members().await {
            tracing::warn!(%error, "could not note who is there");
            self.traffic.write_failures += 1;
        }
    }

    /// Keeps nothing for a peer any more that is gone without a goodbye. Returns whether there is such a one.
    pub(super) async fn forget_peer(&mut self, peer: &PeerId) -> Result<bool, SyncError> {
        let is_absent = |(id, left): &(PeerId, Option<Duration>)| id == peer && left.is_some();
        let absent = self.machine.members(self.now()).iter().any(is_absent);
        if absent {
            self.input(Input::PeerLeft(peer.clone()));
            self.members_changed = true;
            self.note_members().await?;
        }
        Ok(absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_back() {
        let id = |name: &str| PeerId::new(name).unwrap();
        let members = [(id("a"), 0), (id("b"), 1_700_000_000)];
        let note = write(&members);
        let golden = b"\x01\0\0\0\0\0\0\0\0\x01a\0\0\0\0\x65\x53\xf1\0\x01b";
        assert_eq!(note[..], golden[..], "docs/formats/patch-store.md");
        assert_eq!(read(&note).unwrap(), members);
        assert_eq!(read(b"").unwrap(), []);
        assert_eq!(read(&[2, 0]), None, "of a later version");
        for len in [2, 9, 10, 12, note.len() - 1] {
            assert_eq!(read(&note[..len]), None, "cut at {len}");
        }
        // Who was gone for too long before this start is not waited for.
        let day = Duration::from_hours(24);
        assert_eq!(known_before(&note, day).unwrap(), [(id("a"), day)]);
        assert_eq!(known_before(&note, day * 365 * 1000).unwrap().len(), 2);
        let later = known_before(&[2, 0], day).unwrap_err();
        assert!(later.to_string().contains("a later version wrote it"), "{later}");
    }
}
