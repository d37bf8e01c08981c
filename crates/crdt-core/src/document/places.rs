//! Setting a place that holds one node: the last writer wins.
//!
//! The value is linked before the old one is released: it can be below the old one and go with it, and its place must not go
//! to another node while something refers to it.

use super::{node::NIL, store::Store};

impl Store {
    /// Sets a key of a map to a node by the last-writer rule. Tells whether it did.
    pub(super) fn set_key(&mut self, obj: u32, key: u32, value: u32) -> bool {
        match self.obj(obj).find(key) {
            None => self.push_key(obj, key, value),
            Some(place) => {
                let old = self.obj(obj).entries[place].node;
                if !self.is_newer(value, old) {
                    self.forgo(value);
                    return false;
                }
                self.obj_mut(obj).entries[place].node = value;
                self.node_mut(value).link();
                self.release(old);
            }
        }
        true
    }

    /// Sets a place of a tuple to a node by the last-writer rule. Tells whether it did.
    pub(super) fn set_place(&mut self, vec: u32, place: u8, value: u32) -> bool {
        let places = self.vec_mut(vec);
        let place = usize::from(place);
        if places.len() <= place {
            places.resize(place + 1, NIL);
        }
        let old = places[place];
        if old != NIL && !self.is_newer(value, old) {
            self.forgo(value);
            return false;
        }
        self.vec_mut(vec)[place] = value;
        self.node_mut(value).link();
        if old != NIL {
            self.release(old);
        }
        true
    }

    /// Sets a register to a node by the last-writer rule. Tells whether it did.
    pub(super) fn set_val(&mut self, val: u32, value: u32) -> bool {
        let old = self.node(val).payload();
        if !self.is_newer(value, val) || old != NIL && !self.is_newer(value, old) {
            self.forgo(value);
            return false;
        }
        self.node_mut(val).set_payload(value);
        self.node_mut(value).link();
        if old != NIL {
            self.release(old);
        }
        true
    }

    /// Sets the root register to a node by the last-writer rule. Tells whether it did.
    pub(super) fn set_root(&mut self, value: u32) -> bool {
        let old = self.root;
        if old != NIL && !self.is_newer(value, old) {
            self.forgo(value);
            return false;
        }
        self.root = value;
        self.node_mut(value).link();
        if old != NIL {
            self.release(old);
        }
        true
    }
}
