//! A world in which patches are signed, and who attacks it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crdt_core::{SessionId, StateVector};
use crdt_sync::{
    PatchRecord, SyncMessage,
    session::{Input, SyncMode},
};

use super::{TROUBLE, Trouble, What, World};
use crate::{forger, random::Random, replica::Replica};

#[derive(Default)]
pub(super) struct Signed {
    pub(super) made: Vec<PatchRecord>,
    pub(super) owners: BTreeMap<SessionId, usize>,
    pub(super) liar: Option<usize>,
    /// The list of those who may write, as all begin with it.
    pub(super) list: forger::List,
    /// How many replicas write; those after them have no key.
    pub(super) writers: usize,
    /// Who is taken from the list.
    pub(super) revoked: Option<usize>,
}

impl World {
    /// A world in which patches are signed, and somebody is about who would like to change the document without the right to.
    pub(crate) fn with_signatures(seed: u64, print: bool) -> Self {
        let mut random = Random(seed ^ 0x7369_676e);
        let trouble =
            Trouble { loss: random.below(40), repeat: random.below(20), delay_max_ms: 1 + random.below(400) };
        let mut world = Self::empty(random, trouble, print);
        let count = 2 + world.random.below(forger::WRITERS as u64 - 1) as usize;
        let sync = if world.random.percent(50) { SyncMode::Dag } else { SyncMode::Vectors };
        let binds = world.random.percent(70);
        let list = forger::List { binds, waits_for_bound: binds && world.random.percent(60), without: None };
        (world.signed.list, world.signed.writers) = (list, count);
        // One who only reads and has no key, where nobody waits for it.
        let readers = usize::from(list.waits_for_bound && world.random.percent(70));
        for index in 0..count + readers {
            world.add_replica(sync);
            world.replicas[index].guard(Arc::new(move |number| list.guard(number, count)));
            world.signed.owners.insert(world.replicas[index].session, index);
        }
        world.plan(Duration::ZERO, What::Look);
        world.signed.liar = world.random.percent(50).then_some(count - 1);
        let ms = TROUBLE.as_millis() as u64;
        for index in 0..count + readers {
            for _ in 0..world.random.below(12) {
                let at = world.random.ms(ms);
                if index < count {
                    world.plan(at, What::Edit(index));
                }
            }
            if world.random.percent(40) {
                let (crash, pause) = (world.random.ms(ms), world.random.ms(6000));
                world.plan(crash, What::Crash(index));
                world.plan(crash + pause, What::Restart(index));
            }
        }
        for _ in 0..world.random.below(30) {
            let at = world.random.ms(ms * 3 / 2);
            world.plan(at, What::Attack);
        }
        if world.random.percent(50) {
            for index in 0..count + readers {
                let at = world.random.ms(ms);
                world.plan(at, What::Compact(index));
            }
            // It speaks in the names of those who are there.
            for _ in 0..world.random.below(40) {
                let at = world.random.ms(ms * 3 / 2);
                world.plan(at, What::Outside);
            }
            for _ in 0..world.random.below(40) {
                let at = world.random.ms(ms * 3 / 2);
                world.plan(at, What::Lie);
            }
        }
        if world.random.percent(40) {
            let revoked = world.random.below(count as u64) as usize;
            world.signed.revoked = Some(revoked);
            let begins = world.random.ms(ms * 2 / 3);
            for index in 0..count + readers {
                let told = begins + world.random.ms(ms / 3);
                world.plan(told, What::Revoke(index));
            }
        }
        for _ in 0..world.random.below(4) {
            let at = world.random.ms(ms);
            world.plan(at, What::Partition);
        }
        world
    }

    /// Runs to the end a world in which patches are signed: all agree, on what its authors made and nothing else. Returns how
    /// many patches were refused.
    pub(crate) fn run_with_signatures(mut self) -> Result<u64, String> {
        self.run_to_end()?;
        self.check_end()?;
        // Who has gone was stopped with an edit in its hands that nobody saw.
        for replica in self.staying() {
            let made = &self.signed.made;
            if let Some(forged) = replica.beyond_snapshot().iter().find(|record| !made.contains(record)) {
                return Err(format!("{} took in {forged:?}", replica.id));
            }
            let document = replica.doc.lock();
            if let Some(id) = document.ids.keys().find(|id| !made.iter().any(|made| made.id == **id)) {
                return Err(format!("{} has {id} in its document, which nobody made", replica.id));
            }
        }
        let staying: Vec<&Replica> = self.staying().collect();
        let same = |replica: &&&Replica| replica.kept_vector() == staying[0].kept_vector();
        let mut alike = staying.iter().filter(same);
        if alike.any(|replica| replica.kept_content() != staying[0].kept_content()) {
            return Err("some have other patches under the same times".to_owned());
        }
        Ok(self.replicas.iter().map(|replica| replica.not_allowed).sum())
    }

    pub(super) fn attack(&mut self) {
        if self.signed.made.is_empty() {
            return;
        }
        let at = self.random.below(self.signed.made.len() as u64) as usize;
        let heard = &self.signed.made[at];
        let owner = self.signed.owners[&heard.session()];
        let forged = forger::attack(&mut self.random, heard, owner);
        for to in 0..self.replicas.len() {
            let pause = self.random.ms(200);
            let input = Input::Heard(forged.clone()).into();
            self.plan(self.now + pause, What::Deliver { to, input });
        }
    }

    /// One on the list says something to all, signed.
    pub(super) fn lie(&mut self) {
        let mut all = StateVector::new();
        self.replicas.iter().for_each(|replica| all.merge(&replica.kept_vector()));
        let (from, message) = self.signed.list.lie(&mut self.random, self.signed.writers, all);
        for to in 0..self.replicas.len() {
            let pause = self.random.ms(20);
            let input = Input::Message { from: from.clone(), message: message.clone() };
            self.plan(self.now + pause, What::Deliver { to, input: input.into() });
        }
    }

    pub(super) fn revoke(&mut self, index: usize) {
        let Some(revoked) = self.signed.revoked else { return };
        let list = forger::List { without: Some(revoked), ..self.signed.list };
        let writers = self.signed.writers;
        self.replicas[index].revoke(Arc::new(move |number| list.guard(number, writers)));
        if index == revoked {
            let owners = self.signed.owners.iter().filter(|(_, owner)| **owner == revoked);
            self.gone = Some((revoked, owners.map(|(sid, _)| *sid).collect()));
            self.replicas[index].crash();
        }
    }

    /// A writer goes on in the sessions of others when it passes their patches on.
    pub(super) fn maybe_go_on(&mut self, from: usize, message: SyncMessage) -> SyncMessage {
        match message {
            SyncMessage::Patches { id, records } if self.signed.liar == Some(from) => {
                let owners = &self.signed.owners;
                let records = forger::continued(&mut self.random, from, records, |sid| owners[&sid]);
                SyncMessage::Patches { id, records }
            }
            other => other,
        }
    }
}
