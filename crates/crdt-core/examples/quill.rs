//! A server of rich texts for browsers with the Quill editor: deltas come in, and go out to the others.
//!
//! An editor counts positions in the text as it is in its window. So the server keeps a fork for each window, which has seen
//! what that window has seen; a delta is made there, and what comes of it goes to the others as a patch. They are told as a
//! delta again: what has changed in their own fork.

use std::{collections::BTreeMap, error::Error};

use crdt_core::{
    Document, Model, Patch, SessionId, Value,
    codec::json,
    model::{QuillEditor, QuillOp},
};

/// One text, and a fork of it for each window.
struct Room {
    text: Document,
    windows: BTreeMap<u64, Window>,
}

struct Window {
    model: Model,
    editor: QuillEditor,
    /// What others did since this window was told.
    waiting: Vec<Patch>,
}

impl Room {
    fn new() -> Result<Self, Box<dyn Error>> {
        let mut model = Model::new(SessionId::new(70_000)?);
        model.api().root(Value::Map(Vec::new()))?;
        model.api().obj("")?.set_quill("note", "")?;
        let mut text = model.into_document();
        // Forks take no memory until they are edited.
        text.share();
        Ok(Self { text, windows: BTreeMap::new() })
    }

    /// A window opens: it is told all that there is.
    fn open(&mut self, window: u64) -> Result<String, Box<dyn Error>> {
        let mut model = Model::from(self.text.fork(SessionId::new(70_001 + window)?));
        let editor = model.api().rich_text("/note")?.quill_editor();
        self.windows.insert(window, Window { model, editor, waiting: Vec::new() });
        self.news(window)
    }

    /// A window's user has edited.
    fn edited(&mut self, window: u64, delta: &str) -> Result<(), Box<dyn Error>> {
        let ops = QuillOp::from_value(&json::decode(delta.as_bytes())?)?;
        let author = self.windows.get_mut(&window).ok_or("no such window")?;
        // A delta that does not fit leaves nothing behind.
        author.editor.edit(&mut author.model, &ops)?;
        let Some(patch) = author.model.flush() else { return Ok(()) };
        let _ = self.text.apply(&patch)?;
        for (_, other) in self.windows.iter_mut().filter(|(other, _)| **other != window) {
            other.waiting.push(patch.clone());
        }
        Ok(())
    }

    /// What others did since a window was told last, for its editor to do as well.
    fn news(&mut self, window: u64) -> Result<String, Box<dyn Error>> {
        let window = self.windows.get_mut(&window).ok_or("no such window")?;
        for patch in window.waiting.drain(..) {
            let _ = window.model.apply(&patch)?;
        }
        let delta = window.editor.catch_up(window.model.document())?;
        Ok(delta.iter().map(QuillOp::to_value).collect::<Value>().to_string())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut room = Room::new()?;
    assert_eq!(room.open(1)?, "[]");
    room.edited(1, r#"[{"insert": "The warp\n"}]"#)?;
    assert_eq!(room.open(2)?, r#"[{"insert":"The warp\n"}]"#);

    // One makes a word bold, and at the same time the other one writes in it: what was written is bold too.
    room.edited(1, r#"[{"retain": 4}, {"retain": 4, "attributes": {"bold": true}}]"#)?;
    room.edited(2, r#"[{"retain": 6}, {"insert": "-and-weft-a"}]"#)?;
    assert_eq!(room.news(1)?, r#"[{"retain":6},{"insert":"-and-weft-a","attributes":{"bold":true}}]"#);
    let bold = r#"[{"retain":4},{"retain":15,"attributes":{"bold":true}}]"#;
    assert_eq!(room.news(2)?, bold);

    // A delta for another text is refused as a whole.
    assert!(room.edited(2, r#"[{"insert": "lost"}, {"delete": 999}]"#).is_err());
    assert_eq!(room.news(2)?, "[]");
    println!("{bold}");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
