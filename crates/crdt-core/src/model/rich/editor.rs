//! What a Quill editor shows of a rich text, and what it is to be told when others have changed it.
//!
//! The elements of a text have ids and never change places. So what was shown and what is there now are compared by ids, in
//! one walk over both, and the delta says exactly which units are new and which are gone, also where the same text stands
//! next to it: the editor's cursor stays where its user has it. No event is needed for that, and none can be missed.

use std::collections::BTreeMap;

use super::{InvalidQuill, QuillOp, Reading, RichTextCursor};
use crate::{Document, Model, SessionId, Text, Timestamp, Value, document::Content, model::EditError};

/// A Quill editor that shows a rich text: what it is to be told, and what its user does.
///
/// ```
/// use crdt_core::{Model, SessionId, Value, model::QuillOp};
///
/// let mut alice = Model::new(SessionId::new(70_001).unwrap());
/// alice.api().root(Value::Map(vec![]))?;
/// alice.api().obj("")?.set_quill("note", "warp\n")?;
/// let mut bob = alice.fork(SessionId::new(70_002).unwrap());
///
/// // At first it is told all that there is.
/// let mut editor = alice.api().rich_text("/note")?.quill_editor();
/// assert_eq!(editor.catch_up(alice.document())?, [QuillOp::Insert("warp\n".into(), vec![])]);
/// // Its user types; and so does somebody else.
/// editor.edit(&mut alice, &[QuillOp::Retain(4, vec![]), QuillOp::Insert("!".into(), vec![])])?;
/// bob.api().rich_text("/note")?.ins(0, "the ")?;
/// alice.apply(&bob.flush().unwrap())?;
/// assert_eq!(editor.catch_up(alice.document())?, [QuillOp::Insert("the ".into(), vec![])]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// To catch up reads the whole text and all of its marks, as [`to_quill`](RichTextCursor::to_quill) does: do it once for
/// all that has come, not for each patch. It takes memory for each run of units that were typed together and look the same.
#[derive(Debug, Clone)]
pub struct QuillEditor {
    text: Timestamp,
    slices: Timestamp,
    shown: Vec<Run>,
}

/// What looks the same: no tag twice, none that says nothing.
type Look = BTreeMap<Text, Value>;

/// Units with ids one after the other that look the same.
#[derive(Debug, Clone)]
struct Run {
    id: Timestamp,
    len: usize,
    /// What stands here instead of text; then it is of length 1.
    embed: Option<Value>,
    look: Look,
}

impl Run {
    fn part(&self, from: usize, len: usize) -> Self {
        Self { id: self.id.tick(from as u64), len, ..self.clone() }
    }
}

impl RichTextCursor<'_> {
    /// A Quill editor that shows this text, and nothing yet: [`QuillEditor::catch_up`].
    pub const fn quill_editor(&self) -> QuillEditor {
        QuillEditor { text: self.text, slices: self.slices, shown: Vec::new() }
    }
}

impl QuillEditor {
    /// What has changed since the editor was told last, its user's own edits aside: a delta for its `updateContents`. Empty if
    /// nothing has.
    ///
    /// # Errors
    /// [`EditError::Removed`] if the text is gone.
    pub fn catch_up(&mut self, document: &Document) -> Result<Vec<QuillOp>, EditError> {
        let (now, units) = self.read(document)?;
        let delta = between(&self.shown, &now, &units);
        self.shown = now;
        Ok(delta)
    }

    /// Does what the editor's user did. The delta is about what the editor shows, so it must have been told all: catch up
    /// before each.
    ///
    /// What comes of it can look different from what the editor shows by itself, where a mark that Quill does not know
    /// stands, say. Then the editor is told the next time.
    ///
    /// # Errors
    /// [`InvalidQuill::Behind`] if something has changed that the editor was not told: then nothing is done. Tell it,
    /// and give the delta as Quill's `transform` makes it from both. [`InvalidQuill::Edit`] if the delta does not fit, and
    /// then nothing is done either, or if the document cannot take it; whatever part of it was done the editor is told the
    /// next time.
    pub fn edit(&mut self, model: &mut Model, delta: &[QuillOp]) -> Result<(), InvalidQuill> {
        let (now, units) = self.read(model.document())?;
        if !between(&self.shown, &now, &units).is_empty() {
            return Err(InvalidQuill::Behind);
        }
        let goes_to = delta.iter().fold(0_usize, |at, op| match op {
            QuillOp::Retain(len, _) | QuillOp::Delete(len) => at.saturating_add(*len),
            QuillOp::Insert(..) | QuillOp::Embed(..) => at,
        });
        if goes_to > units.len() {
            return Err(EditError::OutOfRange { position: goes_to, len: units.len() }.into());
        }
        RichTextCursor { model, text: self.text, slices: self.slices }.apply_quill(delta)?;
        let (now, _) = self.read(model.document())?;
        self.shown = done_by_itself(&self.shown, delta, &now);
        Ok(())
    }

    /// The text in runs, and its units.
    fn read(&self, doc: &Document) -> Result<(Vec<Run>, Vec<u16>), EditError> {
        let reading = Reading { doc, text: self.text, slices: self.slices };
        let Content::Str(chunks) = reading.node()?.content() else {
            return Err(EditError::Removed(self.text));
        };
        let mut chunks = chunks.filter(|chunk| !chunk.is_tombstone());
        let (mut id, mut left) = (self.text, 0);
        let (mut runs, mut units) = (Vec::new(), Vec::new());
        for op in reading.to_quill()? {
            let (mut len, embed, marks) = match op {
                QuillOp::Insert(text, marks) => {
                    let start = units.len();
                    units.extend(text.as_wtf8().utf16());
                    (units.len() - start, None, marks)
                }
                QuillOp::Embed(embed, marks) => {
                    units.push(u16::from(b'\n'));
                    (1, Some(embed), marks)
                }
                QuillOp::Retain(..) | QuillOp::Delete(_) => continue,
            };
            let look = look(&marks);
            while len > 0 {
                if left == 0 {
                    let Some(chunk) = chunks.next() else { break };
                    (id, left) = (chunk.id(), chunk.span() as usize);
                }
                let part = len.min(left);
                runs.push(Run { id, len: part, embed: embed.clone(), look: look.clone() });
                (id, left, len) = (id.tick(part as u64), left - part, len - part);
            }
        }
        Ok((runs, units))
    }
}

/// Of two marks with the same tag Quill sees the last, and none that is `null`.
fn look(marks: &[(Text, Value)]) -> Look {
    let mut look: Look = marks.iter().cloned().collect();
    look.retain(|_, value| !value.is_null());
    look
}

/// What the editor shows after its user's own delta: it marks as the delta says, whatever came of it.
fn done_by_itself(shown: &[Run], delta: &[QuillOp], now: &[Run]) -> Vec<Run> {
    let (mut shown, mut now) = (Walk::over(shown), Walk::over(now));
    let mut after: Vec<Run> = Vec::new();
    for op in delta {
        match op {
            QuillOp::Retain(len, marks) => {
                now.pass(*len);
                after.extend(shown.take(*len).map(|mut run| {
                    run.look.extend(marks.iter().cloned());
                    run.look.retain(|_, value| !value.is_null());
                    run
                }));
            }
            QuillOp::Delete(len) => shown.pass(*len),
            QuillOp::Insert(text, marks) => {
                let (len, look) = (text.as_wtf8().units(), look(marks));
                after.extend(now.take(len).map(|run| Run { embed: None, look: look.clone(), ..run }));
            }
            QuillOp::Embed(embed, marks) => {
                let (embed, look) = (Some(embed), look(marks));
                after.extend(now.take(1).map(|run| Run { embed: embed.cloned(), look: look.clone(), ..run }));
            }
        }
    }
    after.extend(shown.take(usize::MAX));
    after
}

/// The delta that leads from what was shown to what is there now.
fn between(old: &[Run], new: &[Run], units: &[u16]) -> Vec<QuillOp> {
    let (known, left) = (Ids::of(old), Ids::of(new));
    let (mut old, mut new) = (Walk::over(old), Walk::over(new));
    let mut delta = Writer::default();
    loop {
        if let Some(run) = new.next() {
            let (is_known, len) = known.cover(&run);
            if !is_known {
                delta.insert(&run, &units[new.position..][..len]);
                new.pass(len);
                continue;
            }
        }
        if let Some(run) = old.next() {
            let (stays, len) = left.cover(&run);
            if !stays {
                delta.delete(len);
                old.pass(len);
                continue;
            }
        }
        let len = match (old.next(), new.next()) {
            (None, None) => return delta.finish(),
            (Some(before), Some(after)) if before.id == after.id => {
                let len = before.len.min(after.len);
                if before.embed == after.embed {
                    delta.retain(len, changed(&before.look, &after.look));
                } else {
                    delta.insert(&after, &units[new.position..][..len]);
                    delta.delete(len);
                }
                len
            }
            // Another document, in which the same ids stand in another order: all is new.
            (before, after) => {
                let (before, after) = (before.map_or(0, |run| run.len), after.map_or(0, |run| run.len));
                if let Some(run) = new.next() {
                    delta.insert(&run, &units[new.position..][..after]);
                }
                delta.delete(before);
                old.pass(before);
                new.pass(after);
                continue;
            }
        };
        old.pass(len);
        new.pass(len);
    }
}

/// The attributes that make one look of another; `null` takes one away.
fn changed(before: &Look, after: &Look) -> Vec<(Text, Value)> {
    let gone = before.keys().filter(|tag| !after.contains_key(*tag)).map(|tag| (tag.clone(), Value::Null));
    let set = after.iter().filter(|(tag, value)| before.get(*tag) != Some(value));
    let changed: Look = gone.chain(set.map(|(tag, value)| (tag.clone(), value.clone()))).collect();
    changed.into_iter().collect()
}

/// Goes through runs, part by part.
struct Walk<'r> {
    runs: &'r [Run],
    /// How much of the first run is done.
    within: usize,
    /// How many units are done.
    position: usize,
}

impl<'r> Walk<'r> {
    const fn over(runs: &'r [Run]) -> Self {
        Self { runs, within: 0, position: 0 }
    }

    /// What is left of the run that is next.
    fn next(&self) -> Option<Run> {
        self.runs.first().map(|run| run.part(self.within, run.len - self.within))
    }

    fn pass(&mut self, len: usize) {
        self.take(len).for_each(drop);
    }

    /// The next units, as many as there are.
    fn take(&mut self, len: usize) -> impl Iterator<Item = Run> + use<'_, 'r> {
        let mut len = len;
        std::iter::from_fn(move || {
            let run = self.next().filter(|_| len > 0)?;
            let part = run.len.min(len);
            (self.within, self.position, len) = (self.within + part, self.position + part, len - part);
            if part == run.len {
                (self.runs, self.within) = (&self.runs[1..], 0);
            }
            Some(run.part(0, part))
        })
    }
}

/// Which ids there are: for each run its session, its first time, and how many follow.
struct Ids(BTreeMap<(SessionId, u64), usize>);

impl Ids {
    fn of(runs: &[Run]) -> Self {
        Self(runs.iter().map(|run| ((run.id.sid, run.id.time), run.len)).collect())
    }

    /// Whether the first id of a run is among them, and of how many from there on that is so.
    fn cover(&self, run: &Run) -> (bool, usize) {
        let Timestamp { sid, time } = run.id;
        let upto = |end: u64| usize::try_from(end - time).map_or(run.len, |len| run.len.min(len));
        let before = self.0.range((sid, 0)..=(sid, time)).next_back();
        let end = before.map_or(0, |(&(_, start), &len)| start + len as u64);
        if end > time {
            return (true, upto(end));
        }
        let next = self.0.range((sid, time)..=(sid, u64::MAX)).next();
        (false, next.map_or(run.len, |(&(_, start), _)| upto(start)))
    }
}

/// Writes a delta in the usual form: nothing twice in a row, what is new before what is gone, nothing retained at the end.
#[derive(Default)]
struct Writer {
    ops: Vec<QuillOp>,
    /// What is new since something was retained, and how much is gone.
    new: Vec<QuillOp>,
    gone: usize,
}

impl Writer {
    fn insert(&mut self, run: &Run, units: &[u16]) {
        let marks: Vec<_> = run.look.clone().into_iter().collect();
        if let Some(embed) = &run.embed {
            self.new.push(QuillOp::Embed(embed.clone(), marks));
            return;
        }
        let text = Text::from_utf16(units.iter().copied());
        match self.new.last_mut() {
            Some(QuillOp::Insert(last, same)) if *same == marks => last.push(text.as_wtf8()),
            _ => self.new.push(QuillOp::Insert(text, marks)),
        }
    }

    const fn delete(&mut self, len: usize) {
        self.gone += len;
    }

    fn retain(&mut self, len: usize, marks: Vec<(Text, Value)>) {
        self.close();
        match self.ops.last_mut() {
            Some(QuillOp::Retain(last, same)) if *same == marks => *last += len,
            _ => self.ops.push(QuillOp::Retain(len, marks)),
        }
    }

    fn close(&mut self) {
        self.ops.append(&mut self.new);
        let gone = std::mem::take(&mut self.gone);
        if gone > 0 {
            self.ops.push(QuillOp::Delete(gone));
        }
    }

    fn finish(mut self) -> Vec<QuillOp> {
        self.close();
        if matches!(self.ops.last(), Some(QuillOp::Retain(_, marks)) if marks.is_empty()) {
            self.ops.pop();
        }
        self.ops
    }
}
