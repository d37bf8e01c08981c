//! A to-do list that two people edit at once: each undoes only what was theirs, and sees where the other one is.
//!
//! What goes between them is bytes: patches, and what each shows of itself. Here they are handed over; `crdt-sync` carries
//! them over a network.

use std::error::Error;

use crdt_core::{
    Applied, Model, SessionId, Value,
    model::{EditError, Selection, UndoOptions},
    presence::{Others, Shown},
};
use serde_json::json;

/// The list in somebody's window.
struct Todo {
    user: &'static str,
    model: Model,
    others: Others<&'static str>,
}

impl Todo {
    fn open(user: &'static str, mut model: Model) -> Self {
        model.enable_undo(UndoOptions::STANDARD);
        Self { user, model, others: Others::default() }
    }

    fn add(&mut self, title: &str) -> Result<(), EditError> {
        let mut items = self.model.api().arr("/items")?;
        items.ins(items.len(), [json!({"title": title, "done": false})])?;
        self.model.end_undo_step();
        Ok(())
    }

    fn tick(&mut self, item: usize) -> Result<(), EditError> {
        self.model.api().obj(format!("/items/{item}"))?.set([("done", true)])?;
        self.model.end_undo_step();
        Ok(())
    }

    /// What the other windows have to be told.
    fn news(&mut self) -> Vec<u8> {
        self.model.flush().map_or_else(Vec::new, |patch| patch.as_bytes().to_vec())
    }

    /// What another window told.
    fn hear(&mut self, news: &[u8]) -> Result<(), Box<dyn Error>> {
        match self.model.apply_bytes(news)? {
            Applied::Merged | Applied::Known => Ok(()),
            // News that came too early would have to be kept. Here they come in order.
            Applied::Parked { missing } => Err(format!("{missing} has to come first").into()),
        }
    }

    /// What this window shows of its user, who has selected some of an item's title.
    fn shown(&mut self, item: usize, chars: std::ops::Range<usize>) -> Result<Vec<u8>, EditError> {
        let title = self.model.api().str(format!("/items/{item}/title"))?.id();
        let selections = Selection::range(self.model.document(), title, chars).into_iter().collect();
        Ok(Shown { user: self.user.into(), selections, ..Shown::of(&self.model) }.encode())
    }

    /// The list, a line each.
    fn lines(&self) -> Vec<String> {
        let items = self.model.view_at("/items").unwrap_or_default();
        let line = |item: &Value| {
            let done = item.get("done").and_then(Value::as_bool) == Some(true);
            let title = item.get("title").and_then(Value::as_str).unwrap_or_default();
            format!("[{}] {title}", if done { "x" } else { " " })
        };
        items.as_array().unwrap_or_default().iter().map(line).collect()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut first = Model::new(SessionId::new(70_001)?);
    first.api().root(json!({"items": []}))?;
    let mut alice = Todo::open("Alice", first);
    let mut bob = Todo::open("Bob", alice.model.fork(SessionId::new(70_002)?));

    // Both are on a train, without a network.
    alice.add("wind the warp")?;
    alice.add("thread the loom")?;
    bob.add("buy yarn")?;
    bob.tick(0)?;
    let (from_alice, from_bob) = (alice.news(), bob.news());
    alice.hear(&from_bob)?;
    bob.hear(&from_alice)?;
    assert_eq!(alice.lines(), bob.lines());

    // Alice takes back what she did last. Bob's item stays.
    alice.model.undo()?.ok_or("nothing to undo")?;
    bob.hear(&alice.news())?;
    assert!(bob.lines().contains(&"[x] buy yarn".to_owned()));
    assert!(!bob.lines().iter().any(|line| line.ends_with("thread the loom")));

    // Bob selects a word; Alice, who writes in front of it meanwhile, sees the same word selected.
    let yarn = bob.lines().iter().position(|line| line.ends_with("yarn")).ok_or("no yarn")?;
    let shown = bob.shown(yarn, 4..8)?;
    let mut title = alice.model.api().str(format!("/items/{yarn}/title"))?;
    title.ins(0, "go and ")?;
    let title = title.id();
    alice.others.shows("bob's window", &shown)?;
    let (_, ranges) = alice.others.selected_in(alice.model.document(), title).next().ok_or("nobody")?;
    assert_eq!(ranges.first(), Some(&(11..15)));

    for line in alice.lines() {
        println!("{line}");
    }
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
