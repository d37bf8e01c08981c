//! Patches out of chance: each byte of entropy decides something, so that a failure shrinks to few bytes.

use crdt_core::{Patch, PatchBuilder, SessionId, Text, Timespan, Timestamp, Value};

pub struct Entropy<'a>(pub &'a [u8]);

impl Entropy<'_> {
    pub fn is_spent(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0 {
            [] => 0,
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
        }
    }

    pub fn below(&mut self, n: u64) -> u64 {
        u64::from(self.byte()) % n
    }

    /// Small numbers often, large ones sometimes.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..200 => small.into(),
            wide => (0..u32::from(wide) % 6 + 1).fold(0, |n, _| n << 8 | u64::from(self.byte())),
        }
    }

    pub fn sid(&mut self) -> SessionId {
        let some = [0, 1, 2, 3, 65_535, 65_536, 70_000, 80_000, 123_456, (1 << 53) - 1];
        SessionId::new(some[self.below(some.len() as u64) as usize]).unwrap()
    }

    pub fn id(&mut self, own: SessionId) -> Timestamp {
        let sid = if self.byte() < 160 { own } else { self.sid() };
        Timestamp::new(sid, self.number())
    }

    pub fn text(&mut self) -> Text {
        let len = self.below(12);
        let units = (0..len).map(|_| match self.byte() {
            ascii @ 0..0x80 => ascii.into(),
            high @ 0x80..0xb0 => 0xd83d_u16 + u16::from(high & 1),
            low @ 0xb0..0xe0 => 0xde00 | u16::from(low),
            other => 0x65e5 + u16::from(other),
        });
        Text::from_utf16(units.collect::<Vec<_>>())
    }

    pub fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(12)).map(|_| self.byte()).collect()
    }

    pub fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 11 } else { 14 }) {
            0 => Value::Undefined,
            1 => Value::Null,
            2 => true.into(),
            3 => false.into(),
            4 => self.number().into(),
            5 => Value::from(-(self.number() as i64)),
            6 => Value::from(self.number() as f64 / 64.0),
            7 => Value::from(f64::from_bits(self.number().wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            8 | 9 => self.text().into(),
            10 => self.bytes().into(),
            11 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            12 => Value::Map(
                (0..self.below(4)).map(|i| (Text::from(format!("{i}k")), self.value(depth - 1))).collect(),
            ),
            _ => Value::Tag(self.number(), self.value(depth - 1).into()),
        }
    }
}

/// Any patch at all, sensible or not.
pub fn patch(entropy: &[u8]) -> Patch {
    let e = &mut Entropy(entropy);
    // The system's session makes no patches.
    let sid = e.sid().max(SessionId::SERVER);
    let mut b = PatchBuilder::new(sid, e.number());
    if e.byte() > 200 {
        b.set_meta(&e.value(2));
    }
    loop {
        match e.below(17) {
            0 => b.new_con(&e.value(3)),
            1 => b.new_con_id(e.id(sid)),
            2 => b.new_val(),
            3 => b.new_obj(),
            4 => b.new_vec(),
            5 => b.new_str(),
            6 => b.new_bin(),
            7 => b.new_arr(),
            8 => b.ins_val(e.id(sid), e.id(sid)),
            9 => {
                let entries: Vec<_> = (0..e.below(10)).map(|_| (e.text(), e.id(sid))).collect();
                b.ins_obj(e.id(sid), entries.iter().map(|(key, id)| (key.as_wtf8(), *id)))
            }
            10 => {
                let slots: Vec<_> = (0..e.below(10)).map(|_| (e.byte(), e.id(sid))).collect();
                b.ins_vec(e.id(sid), slots)
            }
            11 => b.ins_str(e.id(sid), e.id(sid), e.text().as_wtf8()),
            12 => b.ins_bin(e.id(sid), e.id(sid), &e.bytes()),
            13 => {
                let values: Vec<_> = (0..e.below(10)).map(|_| e.id(sid)).collect();
                b.ins_arr(e.id(sid), e.id(sid), &values)
            }
            14 => b.upd_arr(e.id(sid), e.id(sid), e.id(sid)),
            15 => {
                let spans: Vec<_> =
                    (0..e.below(10)).map(|_| Timespan { start: e.id(sid), span: e.number() }).collect();
                b.del(e.id(sid), &spans)
            }
            _ => b.nop(e.number()),
        };
        if e.is_spent() {
            break;
        }
    }
    if b.is_empty() {
        b.nop(1);
    }
    b.finish().unwrap()
}

/// The bytes with some of them changed, cut or doubled.
pub fn mutated(mut bytes: Vec<u8>, entropy: &[u8]) -> Vec<u8> {
    let e = &mut Entropy(entropy);
    while !e.is_spent() && !bytes.is_empty() {
        let at = (e.byte() as usize * 256 + e.byte() as usize) % bytes.len();
        match e.below(6) {
            0 => bytes[at] ^= 1 << e.below(8),
            1 => bytes[at] = e.byte(),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, e.byte()),
            4 => bytes.truncate(at),
            _ => bytes.extend_from_within(at..),
        }
        bytes.truncate(1 << 16);
    }
    bytes
}

/// A patch that mostly means something to a document that took such patches: it makes nodes of all kinds, puts them into
/// those before, and edits them. `turn` decides the session and moves the time on.
pub fn sensible(entropy: &[u8], turn: u64) -> Patch {
    let e = &mut Entropy(entropy);
    let sessions = [70_000, 80_000, 123_456].map(|sid| SessionId::new(sid).unwrap());
    let own = sessions[(turn % 3) as usize];
    let mut b = PatchBuilder::new(own, 1 + 40 * (turn / 3));
    // Ids of this session or another one, within what can have been made.
    let some = |e: &mut Entropy<'_>, b: &PatchBuilder| match e.byte() {
        255 => Timestamp::ORIGIN,
        byte => {
            let sid = if byte < 200 { own } else { sessions[usize::from(byte % 3)] };
            Timestamp::new(sid, 1 + u64::from(e.byte()) % b.next_id().time.max(4))
        }
    };
    let root = if e.byte() & 1 == 0 { b.new_obj() } else { b.new_arr() };
    b.ins_val(Timestamp::ORIGIN, root);
    let mut last = [root; 4];
    while !e.is_spent() {
        let parent = if e.byte() < 200 { last[e.below(4) as usize] } else { some(e, &b) };
        let child = match e.below(9) {
            0 => b.new_con(&e.value(2)),
            1 => b.new_con_id(some(e, &b)),
            2 => b.new_val(),
            3 => b.new_obj(),
            4 => b.new_vec(),
            5 => {
                let text = b.new_str();
                b.ins_str(text, text, e.text().as_wtf8());
                text
            }
            6 => {
                let bytes = b.new_bin();
                b.ins_bin(bytes, bytes, &e.bytes());
                bytes
            }
            7 => b.new_arr(),
            _ => some(e, &b),
        };
        match e.below(8) {
            0 => b.ins_val(parent, child),
            1 | 2 => b.ins_obj(parent, [(e.text().as_wtf8(), child)]),
            3 => b.ins_vec(parent, [(e.byte() % 40, child)]),
            4 => b.ins_arr(parent, parent, &[child, some(e, &b)]),
            5 => b.ins_str(child, some(e, &b), e.text().as_wtf8()),
            6 => b.upd_arr(parent, some(e, &b), child),
            _ => b.del(parent, &[Timespan { start: some(e, &b), span: e.below(9) }]),
        };
        last[e.below(4) as usize] = child;
    }
    b.finish().unwrap()
}
