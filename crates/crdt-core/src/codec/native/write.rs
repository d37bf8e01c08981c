//! Taking a document apart into columns.

use std::collections::HashMap;

use super::{
    Col,
    frame::RATIO_MAX,
    kind,
    runs::{IdWriter, Run, RunWriter},
};
use crate::{
    Document, SessionId, Timestamp,
    codec::wire::put_vu57,
    document::{Child, Content, NativeId, NodeRef},
};

/// The columns of a document.
pub(super) fn columns(document: &Document) -> Vec<Vec<u8>> {
    let clock = Clock::of(document);
    let loose = document.loose_nodes();
    let mut writer = Writer {
        document,
        numbers: clock.numbers,
        ranks: ranks(document),
        columns: vec![Vec::new(); Col::COUNT],
        kinds: Kinds::default(),
        ids: IdWriter::default(),
        runs: RunWriter::default(),
        entries: Vec::new(),
        written: HashMap::new(),
        count: 0,
        stack: Vec::new(),
    };
    writer.columns[Col::Clock as usize] = clock.bytes;
    match document.root_child() {
        Some(root) => writer.tree(root),
        None => writer.kinds.put(kind::NONE),
    }
    for node in loose {
        writer.tree(Child::Node(node));
    }
    writer.finish()
}

/// The sessions in the order of their ids, with the last time seen of each.
struct Clock {
    bytes: Vec<u8>,
    /// From a session's number in the document to its number here.
    numbers: Vec<u32>,
}

impl Clock {
    fn of(document: &Document) -> Self {
        // The system makes nothing. A document that came from outside can go on as its session; the time says how far.
        let mut sessions: Vec<(u64, u64, usize)> = document
            .sessions_seen()
            .enumerate()
            .filter_map(|(number, (sid, seen))| Some((sid, seen?, number)))
            .filter(|&(sid, _, _)| sid != SessionId::SYSTEM.get())
            .collect();
        sessions.sort_unstable();
        let mut numbers = vec![u32::MAX; document.sessions_seen().len()];
        let mut bytes = Vec::new();
        put_vu57(&mut bytes, sessions.len() as u64);
        let (mut before, mut max) = (0, 0);
        for (&(sid, seen, number), at) in sessions.iter().zip(0..) {
            numbers[number] = at;
            put_vu57(&mut bytes, sid - before);
            put_vu57(&mut bytes, seen);
            before = sid;
            max = seen.max(max);
        }
        // The clock may have been moved on by hand.
        put_vu57(&mut bytes, document.time().saturating_sub(max + 1));
        put_vu57(&mut bytes, document.compacted_to());
        Self { bytes, numbers }
    }
}

/// For each key of the document its place among all in the order of their bytes.
fn ranks(document: &Document) -> Vec<u32> {
    let mut order: Vec<u32> = (0..document.key_count() as u32).collect();
    order.sort_unstable_by_key(|&key| document.key(key));
    let mut ranks = vec![0; order.len()];
    for (&key, rank) in order.iter().zip(0..) {
        ranks[key as usize] = rank;
    }
    ranks
}

/// Writes kinds, each with how often it stands in a row.
#[derive(Default)]
struct Kinds {
    out: Vec<u8>,
    run: Option<(u8, u64)>,
}

impl Kinds {
    #[inline]
    fn put(&mut self, kind: u8) {
        match &mut self.run {
            Some((last, len)) if *last == kind => *len += 1,
            _ => {
                self.end_run();
                self.run = Some((kind, 1));
            }
        }
    }

    fn end_run(&mut self) {
        if let Some((kind, len)) = self.run.take() {
            put_vu57(&mut self.out, (len - 1) << 4 | u64::from(kind));
        }
    }
}

struct Writer<'d> {
    document: &'d Document,
    numbers: Vec<u32>,
    ranks: Vec<u32>,
    columns: Vec<Vec<u8>>,
    kinds: Kinds,
    ids: IdWriter,
    runs: RunWriter,
    /// The ranks of the keys of all maps, map by map.
    entries: Vec<Vec<u32>>,
    /// The numbers of nodes that may be met again.
    written: HashMap<usize, u64>,
    /// How many nodes are written.
    count: u64,
    /// What is still to be written, the next on top.
    stack: Vec<Option<Child<'d>>>,
}

impl<'d> Writer<'d> {
    fn out(&mut self, column: Col) -> &mut Vec<u8> {
        &mut self.columns[column as usize]
    }

    fn number(&self, id: NativeId) -> NativeId {
        NativeId { session: self.numbers[id.session as usize], time: id.time }
    }

    /// Writes a node and all that hangs on it, each before what it holds.
    fn tree(&mut self, top: Child<'d>) {
        self.stack.push(Some(top));
        while let Some(next) = self.stack.pop() {
            match next {
                None => self.kinds.put(kind::NONE),
                Some(Child::Missing(id)) => {
                    self.kinds.put(kind::MISSING);
                    self.name(id);
                }
                Some(Child::Node(node)) => self.node(node),
            }
        }
    }

    /// Writes an id with its session in full.
    fn name(&mut self, id: Timestamp) {
        put_vu57(self.out(Col::Names), id.sid.get());
        put_vu57(self.out(Col::Names), id.time);
    }

    fn node(&mut self, node: NodeRef<'d>) {
        if node.is_aliased() {
            if let Some(&before) = self.written.get(&node.index()) {
                self.kinds.put(kind::AGAIN);
                return put_vu57(self.out(Col::Names), before);
            }
            self.written.insert(node.index(), self.count);
        }
        self.count += 1;
        let id = self.number(node.native_id());
        self.ids.put(id);
        match node.content() {
            Content::Con(value) => {
                self.kinds.put(kind::CON);
                self.out(Col::Values).extend_from_slice(value.as_bytes());
            }
            Content::ConId(named) => {
                self.kinds.put(kind::CON_ID);
                self.name(named);
            }
            Content::Val(child) => {
                self.kinds.put(kind::VAL);
                self.out(Col::Counts).push(u8::from(child.is_some()));
                self.stack.extend(child.map(Some));
            }
            Content::Obj(entries) => {
                self.kinds.put(kind::OBJ);
                put_vu57(self.out(Col::Counts), entries.len() as u64);
                let mut ranked: Vec<(u32, Child<'d>)> =
                    entries.numbered().map(|(key, child)| (self.ranks[key as usize], child)).collect();
                if !ranked.is_sorted_by_key(|&(rank, _)| rank) {
                    ranked.sort_unstable_by_key(|&(rank, _)| rank);
                }
                self.entries.push(ranked.iter().map(|&(rank, _)| rank).collect());
                self.stack.extend(ranked.into_iter().rev().map(|(_, child)| Some(child)));
            }
            Content::Vec(places) => {
                self.kinds.put(kind::VEC);
                put_vu57(self.out(Col::Counts), places.len() as u64);
                let start = self.stack.len();
                self.stack.extend(places);
                self.stack[start..].reverse();
            }
            Content::Str(_) => {
                self.kinds.put(kind::STR);
                self.sequence(node, id);
                let before = self.out(Col::Text).len();
                node.write_text(self.out(Col::Text));
                let extra = self.out(Col::Text).len() - before - node.len();
                put_vu57(self.out(Col::Counts), extra as u64);
            }
            Content::Bin(chunks) => {
                self.kinds.put(kind::BIN);
                self.sequence(node, id);
                for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                    chunk.write_bytes(self.out(Col::Bytes));
                }
            }
            Content::Arr(chunks) => {
                self.kinds.put(kind::ARR);
                self.sequence(node, id);
                let start = self.stack.len();
                for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                    self.stack.extend(chunk.children().map(Some));
                }
                self.stack[start..].reverse();
            }
        }
    }

    /// Writes the runs of a text, byte string or array.
    fn sequence(&mut self, node: NodeRef<'d>, id: NativeId) {
        self.runs.begin(id);
        let (runs, numbers) = (&mut self.runs, &self.numbers);
        node.for_each_run(|id, span, dead| {
            let id = NativeId { session: numbers[id.session as usize], time: id.time };
            runs.put(Run { id, span: span.into(), dead });
        });
        let count = self.runs.end();
        put_vu57(self.out(Col::Counts), count);
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        self.keys();
        self.kinds.end_run();
        let Self { mut columns, kinds, ids, runs, .. } = self;
        columns[Col::Kinds as usize] = kinds.out;
        columns[Col::Ids as usize] = ids.finish();
        columns[Col::Moves as usize] = runs.moves;
        columns[Col::Spans as usize] = runs.spans;
        columns[Col::Starts as usize] = runs.starts;
        columns
    }

    /// Writes the keys that occur, sorted, each without what it shares with the one before; and the keys of each map as
    /// runs of neighbours.
    fn keys(&mut self) {
        let mut used = vec![false; self.ranks.len()];
        self.entries.iter().flatten().for_each(|&rank| used[rank as usize] = true);
        let mut by_rank = vec![0; self.ranks.len()];
        for (&rank, key) in self.ranks.iter().zip(0u32..) {
            by_rank[rank as usize] = key;
        }
        let mut numbers = vec![0u32; self.ranks.len()];
        let (mut count, mut before): (u32, &[u8]) = (0, &[]);
        let (mut out, mut unfolded) = (Vec::new(), 0);
        for (rank, _) in used.iter().enumerate().filter(|&(_, &used)| used) {
            let key = self.document.key(by_rank[rank]);
            let mut shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
            unfolded += key.len();
            if unfolded > RATIO_MAX * (out.len() + key.len() - shared) {
                shared = 0;
            }
            put_vu57(&mut out, shared as u64);
            put_vu57(&mut out, (key.len() - shared) as u64);
            out.extend_from_slice(&key[shared..]);
            numbers[rank] = count;
            count += 1;
            before = key;
        }
        let keys = self.out(Col::Keys);
        put_vu57(keys, count.into());
        keys.extend_from_slice(&out);
        for ranks in std::mem::take(&mut self.entries) {
            let out = &mut self.columns[Col::Entries as usize];
            let mut next = 0;
            let mut left = ranks.iter().map(|&rank| numbers[rank as usize]).peekable();
            while let Some(first) = left.next() {
                let mut len = 1;
                while left.next_if_eq(&(first + len)).is_some() {
                    len += 1;
                }
                // How many keys are passed over, and how many follow each other.
                put_vu57(out, u64::from(first - next) << 1 | u64::from(len > 1));
                if len > 1 {
                    put_vu57(out, u64::from(len) - 2);
                }
                next = first + len;
            }
        }
    }
}
