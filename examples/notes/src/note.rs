//! What a note is: a title and a text, in a document that starts the same on every replica.

use crdt_core::{
    Document, Model, Patch, PatchBuilder, SessionId, Timestamp, Value,
    document::{Content, NodeRef},
    model::EditError,
};

/// `{"title": "", "text": ""}` by the global session. The page begins with the same patch, and a test compares the two.
pub(crate) fn base() -> Patch {
    let mut builder = PatchBuilder::new(SessionId::GLOBAL, 1);
    let (note, title, text) = (builder.new_obj(), builder.new_str(), builder.new_str());
    builder.ins_obj(note, [("title", title), ("text", text)]);
    builder.ins_val(Timestamp::ORIGIN, note);
    builder.take().unwrap_or_else(|| unreachable!("a builder with operations makes a patch"))
}

/// The text at a key.
pub(crate) fn string(document: &Document, key: &str) -> String {
    match document.view().get(key) {
        // Half of a surrogate pair, which a careless client may leave, is shown as a replacement character.
        Some(Value::Text(text)) => String::from_utf16_lossy(&text.as_wtf8().utf16().collect::<Vec<u16>>()),
        _ => String::new(),
    }
}

/// Makes the text at a key equal to a target, with edits to what differs.
pub(crate) fn set(model: &mut Model, key: &str, target: &str) -> Result<(), EditError> {
    model.api().str(format!("/{key}").as_str())?.update(target)
}

/// Where in the text something is shown, as ids stand: behind the character with this id. If that was deleted, where it
/// was. `None` is the beginning.
pub(crate) fn position_of(document: &Document, behind: Option<Timestamp>) -> usize {
    let Some(id) = behind else { return 0 };
    let mut before = 0;
    for chunk in text_node(document).map(|node| node.content()).iter().flat_map(chunks) {
        let first = chunk.id();
        let inside = first.sid == id.sid && (first.time..first.time + chunk.span()).contains(&id.time);
        match (inside, chunk.is_tombstone()) {
            (true, true) => return before,
            (true, false) => return before + (id.time - first.time) as usize + 1,
            (false, true) => {}
            (false, false) => before += chunk.span() as usize,
        }
    }
    // A character that has not come yet, or never will: the end is as good as any place.
    before
}

/// The id of the character before a position; `None` at the beginning.
pub(crate) fn id_before(document: &Document, position: usize) -> Option<Timestamp> {
    let mut left = position;
    let mut last = None;
    for chunk in text_node(document).map(|node| node.content()).iter().flat_map(chunks) {
        if left == 0 {
            break;
        }
        if !chunk.is_tombstone() {
            let take = left.min(chunk.span() as usize);
            last = Some(Timestamp::new(chunk.id().sid, chunk.id().time + take as u64 - 1));
            left -= take;
        }
    }
    last
}

fn text_node(document: &Document) -> Option<NodeRef<'_>> {
    document.root()?.get("text")
}

fn chunks<'c, 'd>(content: &'c Content<'d>) -> impl Iterator<Item = crdt_core::document::Chunk<'d>> + 'c {
    let chunks = match content {
        Content::Str(chunks) => Some(chunks.clone()),
        _ => None,
    };
    chunks.into_iter().flatten()
}

/// A place in the text as people count: lines and characters from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineColumn {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// The place at a position in UTF-16 code units.
pub(crate) fn line_column(text: &str, position: usize) -> LineColumn {
    let (mut at, mut units) = (LineColumn { line: 1, column: 1 }, 0);
    for c in text.chars() {
        if units >= position {
            break;
        }
        units += c.len_utf16();
        match c {
            '\n' => at = LineColumn { line: at.line + 1, column: 1 },
            _ => at.column += 1,
        }
    }
    at
}

/// The position in UTF-16 code units of a place; one beyond the end of its line or of the text is the end.
pub(crate) fn position(text: &str, at: LineColumn) -> usize {
    let mut units = 0;
    for (index, line) in text.split('\n').enumerate() {
        if index + 1 == at.line {
            return units
                + line.chars().take(at.column.saturating_sub(1)).map(char::len_utf16).sum::<usize>();
        }
        units += line.encode_utf16().count() + 1;
    }
    units.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Model {
        let mut model = Model::new(SessionId::new(70_000).unwrap());
        let _ = model.apply(&base()).unwrap();
        set(&mut model, "text", text).unwrap();
        model
    }

    #[test]
    fn the_page_starts_from_the_same() {
        let page = include_str!("../web/sync/replica.js");
        let hex: String = base().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(page.contains(&format!("const BASE = \"{hex}\";")), "the page's patch is not {hex}");
    }

    #[test]
    fn a_place_is_where_people_count_it() {
        let text = "ab\n😀c\n";
        for (at, line, column) in [(0, 1, 1), (2, 1, 3), (3, 2, 1), (5, 2, 2), (6, 2, 3), (7, 3, 1)] {
            assert_eq!(line_column(text, at), LineColumn { line, column });
            assert_eq!(position(text, LineColumn { line, column }), at);
        }
        assert_eq!(position(text, LineColumn { line: 1, column: 99 }), 2);
        assert_eq!(position(text, LineColumn { line: 99, column: 1 }), 7);
    }

    #[test]
    fn a_cursor_stays_with_its_character() {
        let mut model = note("warp weft");
        let behind_warp = id_before(model.document(), 4);
        assert_eq!(position_of(model.document(), behind_warp), 4);
        model.api().str("/text").unwrap().ins(0, "The ").unwrap();
        assert_eq!(position_of(model.document(), behind_warp), 8);
        // Deleted with what is around it: where it was.
        model.api().str("/text").unwrap().del(5, 4).unwrap();
        assert_eq!(position_of(model.document(), behind_warp), 5);
        assert_eq!((position_of(model.document(), None), id_before(model.document(), 0)), (0, None));
        let unknown = Some(Timestamp::new(SessionId::new(80_000).unwrap(), 9));
        assert_eq!(position_of(model.document(), unknown), string(model.document(), "text").len());
    }
}
