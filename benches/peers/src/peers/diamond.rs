//! diamond-types: text with all its history.

use diamond_types::list::{
    ListCRDT,
    encoding::{ENCODE_FULL, ENCODE_PATCH},
};

use super::{Edit, Peer, Sink};

pub struct Diamond {
    doc: ListCRDT,
    agent: u32,
}

impl Diamond {
    fn open(mut doc: ListCRDT, client: u64) -> Self {
        let agent = doc.get_or_create_agent_id(&format!("client{client}"));
        Self { doc, agent }
    }
}

impl Peer for Diamond {
    const NAME: &'static str = "diamond-types";

    fn new(client: u64) -> Self {
        Self::open(ListCRDT::new(), client)
    }

    fn type_all(&mut self, edits: &[Edit], mut sink: Option<Sink<'_>>) {
        for edit in edits {
            let version = sink.is_some().then(|| self.doc.oplog.local_version());
            if edit.del > 0 {
                self.doc.delete_without_content(self.agent, edit.at..edit.at + edit.del);
            }
            if !edit.ins.is_empty() {
                self.doc.insert(self.agent, edit.at, edit.ins);
            }
            if let (Some(sink), Some(version)) = (&mut sink, version) {
                sink(&self.doc.oplog.encode_from(ENCODE_PATCH, &version));
            }
        }
    }

    fn apply(&mut self, message: &[u8]) {
        self.doc.merge_data_and_ff(message).expect("a message");
    }

    fn text(&mut self) -> String {
        self.doc.branch.content().to_string()
    }

    fn save(&mut self) -> Vec<u8> {
        self.doc.oplog.encode(ENCODE_FULL)
    }

    fn load(bytes: &[u8], client: u64) -> Self {
        Self::open(ListCRDT::load_from(bytes).expect("a document"), client)
    }
}
