//! Carries commands out.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
};

use crdt_sync::PeerId;

use super::command::{Command, HELP};
use crate::{note, replica::Replica, shown::Shown};

/// Lines that `history` remembers; the oldest goes first.
pub(super) const HISTORY_MAX: usize = 200;

type Answer = Result<String, String>;

/// What one terminal works with.
pub(super) struct Desk {
    replica: Arc<Replica>,
    name: String,
    /// Where the own cursor was put, in code units.
    caret: Option<usize>,
    /// Lines with their numbers.
    history: VecDeque<(usize, String)>,
    typed: usize,
    known: BTreeMap<PeerId, Shown>,
}

impl Desk {
    pub(super) fn new(replica: Arc<Replica>, name: String) -> Self {
        let known = replica.others();
        Self { replica, name, caret: None, history: VecDeque::new(), typed: 0, known }
    }

    pub(super) async fn carry_out(&mut self, command: Command, line: &str) -> Answer {
        let command = match command {
            Command::Again(number) => {
                let found = self.history.iter().find(|(n, _)| *n == number);
                let line = &found.ok_or_else(|| format!("no line {number}; `history` lists them"))?.1;
                // Only what was understood is remembered.
                Command::read(line)?.unwrap_or(Command::History)
            }
            command => {
                self.remember(line);
                command
            }
        };
        let replica = &self.replica;
        match command {
            Command::Help => Ok(HELP.to_owned()),
            Command::Show => Ok(self.show()),
            Command::Json => {
                let view = serde_json::Value::from(&replica.view());
                serde_json::to_string_pretty(&view).map_err(|error| error.to_string())
            }
            Command::Title(None) => Ok(printable(&replica.title())),
            Command::Title(Some(title)) => self.set("title", &title).await,
            Command::Add(line) => self.add(&line).await,
            Command::Insert { at, text } => self.insert(at, &text).await,
            Command::Delete { at, count } => self.delete(at, count).await,
            Command::Line { number, text } => self.line(number, text).await,
            Command::Replace { old, new } => self.replace(&old, &new).await,
            Command::At(at) => {
                self.caret = Some(note::position(&replica.text(), at));
                replica.show(&self.name, self.caret);
                Ok(String::new())
            }
            Command::Who => Ok(self.who()),
            Command::Name(name) => {
                self.name = name;
                replica.show(&self.name, self.caret);
                Ok(String::new())
            }
            Command::Peers => self.peers().await,
            Command::Status => self.status().await,
            Command::Sync => replica.manager.sync().await.map(|()| String::new()).map_err(|e| e.to_string()),
            Command::Compact => {
                let contained = replica.manager.compact().await.map_err(|error| error.to_string())?;
                Ok(format!("the snapshot holds what {} sessions wrote", contained.len()))
            }
            Command::History => Ok(self
                .history
                .iter()
                .map(|(number, line)| format!("{number:4}  {line}"))
                .collect::<Vec<_>>()
                .join("\n")),
            Command::Again(_) | Command::Quit => Ok(String::new()),
        }
    }

    fn remember(&mut self, line: &str) {
        self.typed += 1;
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((self.typed, line.trim().to_owned()));
    }

    async fn set(&self, key: &str, target: &str) -> Answer {
        self.replica.edit(|model| note::set(model, key, target)).await.map(|()| String::new())
    }

    async fn add(&self, line: &str) -> Answer {
        let edit = self.replica.edit(|model| {
            let text = note::string(model.document(), "text");
            let glue = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let mut cursor = model.api().str("/text")?;
            let end = cursor.len();
            // With its end, so that lines that several add at once stay lines.
            cursor.ins(end, format!("{glue}{line}\n").as_str())
        });
        edit.await.map(|()| String::new())
    }

    // Where an edit goes is looked for within it: between a look at the text and the edit of it others may write.

    async fn insert(&mut self, at: note::LineColumn, text: &str) -> Answer {
        let mut position = 0;
        let edit = self.replica.edit(|model| {
            position = note::position(&note::string(model.document(), "text"), at);
            model.api().str("/text")?.ins(position, text)
        });
        edit.await?;
        self.caret = Some(position + text.encode_utf16().count());
        self.replica.show(&self.name, self.caret);
        Ok(String::new())
    }

    async fn replace(&self, old: &str, new: &str) -> Answer {
        let mut found = false;
        let edit = self.replica.edit(|model| {
            let text = note::string(model.document(), "text");
            let Some(at) = text.find(old) else { return Ok(()) };
            found = true;
            note::set(model, "text", &format!("{}{new}{}", &text[..at], &text[at + old.len()..]))
        });
        edit.await?;
        if found { Ok(String::new()) } else { Err(format!("{old:?} is not in the text")) }
    }

    async fn delete(&self, at: note::LineColumn, count: usize) -> Answer {
        let edit = self.replica.edit(|model| {
            let text = note::string(model.document(), "text");
            let position = note::position(&text, at);
            let units: Vec<u16> = text.encode_utf16().collect();
            // Characters, not code units: half of one must not stay.
            let after = String::from_utf16_lossy(&units[position..]);
            let taken: usize = after.chars().take(count).map(char::len_utf16).sum();
            model.api().str("/text")?.del(position, taken.min(units.len() - position))
        });
        edit.await.map(|()| String::new())
    }

    async fn line(&self, number: usize, text: Option<String>) -> Answer {
        let missing = |count| format!("no line {number}: the text has {count}");
        let Some(text) = text else {
            let whole = self.replica.text();
            let line = whole.split('\n').nth(number - 1);
            return line.map(printable).ok_or_else(|| missing(whole.split('\n').count()));
        };
        let mut lacks = None;
        let edit = self.replica.edit(|model| {
            let whole = note::string(model.document(), "text");
            let mut lines: Vec<&str> = whole.split('\n').collect();
            let count = lines.len();
            let Some(line) = lines.get_mut(number - 1) else {
                lacks = Some(count);
                return Ok(());
            };
            *line = &text;
            note::set(model, "text", &lines.join("\n"))
        });
        edit.await?;
        lacks.map_or(Ok(String::new()), |count| Err(missing(count)))
    }

    fn show(&self) -> String {
        let (title, text) = (self.replica.title(), self.replica.text());
        let mut out = if title.is_empty() { String::new() } else { format!("# {}\n", printable(&title)) };
        let width = text.split('\n').count().to_string().len();
        let others = self.replica.others();
        let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
        for (index, line) in lines.enumerate() {
            let _ = write!(out, "{:width$} | {}", index + 1, printable(line));
            for shown in others.values().filter(|shown| shown.editing) {
                let at = self.place_of(&text, shown);
                if at.line == index + 1 {
                    let _ = write!(out, "   <- {} at {}", shown.name, at.column);
                }
            }
            out.push('\n');
        }
        out.pop();
        out
    }

    fn who(&self) -> String {
        let mut out = format!("{} (you)", self.name);
        let text = self.replica.text();
        for (peer, shown) in self.replica.others() {
            let place = match shown.editing {
                true => {
                    let at = self.place_of(&text, &shown);
                    format!(" at {}:{}", at.line, at.column)
                }
                false => String::new(),
            };
            let _ = write!(out, "\n{} ({peer}){place}", shown.name);
        }
        out
    }

    fn place_of(&self, text: &str, shown: &Shown) -> note::LineColumn {
        let behind = shown.behind();
        let position = self.replica.document.with(|document| note::position_of(document, behind));
        note::line_column(text, position)
    }

    async fn peers(&self) -> Answer {
        let status = self.replica.status().await?;
        let windows = self.replica.gateway.clients();
        let counted = |count: usize, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        Ok(format!(
            "{}, {} of this one's page\nyou write as session {}",
            counted(status.now.peers - status.now.absent, "other program"),
            counted(windows, "window"),
            self.replica.session()
        ))
    }

    async fn status(&self) -> Answer {
        let status = self.replica.status().await?;
        let mut out = format!(
            "peers {}, behind them by {} ticks, patches that wait {} ({} bytes){}",
            status.now.peers,
            status.now.lag_ticks,
            status.now.parked,
            status.now.parked_bytes,
            if status.now.pulling { ", fetching" } else { "" }
        );
        let sessions = status.stored.len();
        let _ = write!(
            out,
            "\nstored what {sessions} sessions wrote; sent {} bytes to all, {} in pages; lost connections {}, not sent {}, not allowed {}",
            status.bytes_broadcast, status.bytes_paged, status.gaps, status.send_failures, status.not_allowed
        );
        let counted = status.counters.named();
        let counted: Vec<String> = counted
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let _ = write!(out, "\n{}", counted.join(", "));
        Ok(out)
    }

    /// Sentences about those who came or went since the last time.
    pub(super) fn who_came_and_went(&mut self) -> Vec<String> {
        let now = self.replica.others();
        let known = std::mem::replace(&mut self.known, now);
        let came = self.known.iter().filter(|(peer, _)| !known.contains_key(*peer));
        let went = known.iter().filter(|(peer, _)| !self.known.contains_key(*peer));
        let came = came.map(|(_, shown)| format!("{} is here", shown.name));
        came.chain(went.map(|(_, shown)| format!("{} has gone", shown.name))).collect()
    }
}

/// Without what would steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
