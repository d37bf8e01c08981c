//! A server that has ten thousand documents: all begin as one template, few are in memory as documents, the others as small
//! snapshots.

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
};

use crdt_core::{Document, Model, Patch, SessionId, codec::Packing};
use serde_json::json;

/// The session under which this server edits, if it does.
const SERVER: u64 = 70_000;

/// The documents by number.
struct Shelf {
    /// What each begins with. Its memory is shared by all that were not edited yet.
    template: Document,
    open: HashMap<u32, Document>,
    /// The order in which they were used: who is in front goes first.
    used: VecDeque<u32>,
    /// Native snapshots of those that were put away. A real server has them in a store.
    away: HashMap<u32, Vec<u8>>,
}

impl Shelf {
    /// How many documents are open at most; one more puts the one away that was used longest ago.
    const OPEN_MAX: usize = 100;

    fn new() -> Result<Self, Box<dyn Error>> {
        let mut model = Model::new(SessionId::new(SERVER)?);
        model.api().root(json!({"title": "Untitled", "text": "", "tags": ["new"]}))?;
        let mut template = model.into_document();
        template.share();
        Ok(Self { template, open: HashMap::new(), used: VecDeque::new(), away: HashMap::new() })
    }

    fn document(&mut self, number: u32) -> Result<&mut Document, Box<dyn Error>> {
        self.used.retain(|&used| used != number);
        self.used.push_back(number);
        if !self.open.contains_key(&number) {
            if self.open.len() == Self::OPEN_MAX {
                self.put_one_away();
            }
            let document = match self.away.remove(&number) {
                Some(snapshot) => Document::from_native(&snapshot, SessionId::new(SERVER)?)?,
                None => self.template.clone(),
            };
            self.open.insert(number, document);
        }
        Ok(self.open.get_mut(&number).ok_or("it was just put there")?)
    }

    fn put_one_away(&mut self) {
        let Some(number) = self.used.pop_front() else { return };
        let Some(document) = self.open.remove(&number) else { return };
        // One that nobody edited is still the template.
        if !document.shares_with(&self.template) {
            self.away.insert(number, document.to_native(Packing::Plain));
        }
    }

    /// A client has edited.
    fn take(&mut self, number: u32, patch: &Patch) -> Result<(), Box<dyn Error>> {
        let _ = self.document(number)?.apply(patch)?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut shelf = Shelf::new()?;
    // Everybody looks at a document, and every third one writes in it.
    for number in 0..10_000 {
        let session = SessionId::new(100_000 + u64::from(number))?;
        let mut client = Model::from(shelf.document(number)?.fork(session));
        if number % 3 == 0 {
            client.api().str("/text")?.ins(0, format!("Text of document {number}.").as_str())?;
            let patch = client.flush().ok_or("an edit makes a patch")?;
            shelf.take(number, &patch)?;
        }
    }
    assert_eq!(shelf.open.len(), Shelf::OPEN_MAX);
    let away: usize = shelf.away.values().map(Vec::len).sum();
    println!("{} documents were put away in {away} bytes", shelf.away.len());
    assert!(away / shelf.away.len() < 200);

    // One that was put away can be looked at without being opened; who edits it opens it.
    assert_eq!(Document::view_native(&shelf.away[&33])?.get("text"), Some(&"Text of document 33.".into()));
    assert_eq!(Model::from(shelf.document(33)?.clone()).view_at("/text")?, "Text of document 33.".into());
    let template = shelf.template.clone();
    assert!(shelf.document(34)?.shares_with(&template));
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
