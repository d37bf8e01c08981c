//! What can be typed.

use crate::note::LineColumn;

/// A line of the terminal, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Show,
    Json,
    Title(Option<String>),
    Add(String),
    Insert { at: LineColumn, text: String },
    Delete { at: LineColumn, count: usize },
    Line { number: usize, text: Option<String> },
    Replace { old: String, new: String },
    At(LineColumn),
    Who,
    Name(String),
    Peers,
    Status,
    Sync,
    Compact,
    History,
    Again(usize),
    Quit,
}

/// What `help` says. A test compares it with what is read.
pub(super) const HELP: &str = "\
show                  the text, and who is where in it
add TEXT              a new line at the end
ins LINE:COLUMN TEXT  puts text in
del LINE:COLUMN COUNT takes characters out
line N [TEXT]         makes line N this, or shows it
replace OLD => NEW    changes the first place where OLD stands
title [TEXT]          makes the title this, or shows it
at LINE:COLUMN        puts your cursor there, for the others to see
name NAME             who you are to the others
who                   who is here
peers                 the other programs that hold this text
status                how the synchronisation stands
sync                  asks the others for what is missing, now
compact               folds the history into a snapshot
json                  the document as JSON
history               what you typed; !N does it again
quit                  leaves; the text stays where it is kept
In TEXT, \\n is a new line and \\\\ a backslash.";

impl Command {
    /// Reads a line. Nothing is no command; what is wrong comes with what was expected.
    pub(super) fn read(line: &str) -> Result<Option<Self>, String> {
        let line = line.trim_start().trim_end_matches(['\r', '\n']);
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim_start();
        let some = || if rest.is_empty() { None } else { Some(unescape(rest)) };
        let needed = |what: &str| some().ok_or_else(|| format!("{word}: expected {what}"));
        Ok(Some(match word {
            "" => return Ok(None),
            "help" | "?" => Self::Help,
            "show" => Self::Show,
            "json" => Self::Json,
            "title" => Self::Title(some()),
            "add" => Self::Add(unescape(rest)),
            "ins" => {
                let (at, text) = rest.split_once(' ').ok_or("ins: expected LINE:COLUMN TEXT")?;
                Self::Insert { at: place(at)?, text: unescape(text) }
            }
            "del" => {
                let (at, count) = rest.split_once(' ').ok_or("del: expected LINE:COLUMN COUNT")?;
                Self::Delete { at: place(at)?, count: number(count.trim())? }
            }
            "line" => {
                let (at, text) =
                    rest.split_once(' ').map_or((rest, None), |(at, text)| (at, Some(unescape(text))));
                Self::Line { number: number(at)?, text }
            }
            "replace" => {
                let (old, new) = rest.split_once("=>").ok_or("replace: expected OLD => NEW")?;
                let old = unescape(old.trim());
                if old.is_empty() {
                    return Err("replace: expected OLD => NEW".to_owned());
                }
                Self::Replace { old, new: unescape(new.trim()) }
            }
            "at" => Self::At(place(rest)?),
            "who" | "presence" => Self::Who,
            "name" => Self::Name(needed("a name")?),
            "peers" => Self::Peers,
            "status" => Self::Status,
            "sync" => Self::Sync,
            "compact" => Self::Compact,
            "history" => Self::History,
            "quit" | "exit" => Self::Quit,
            _ if word.starts_with('!') => Self::Again(number(&word[1..])?),
            _ => return Err(format!("no command `{word}`; `help` lists them")),
        }))
    }
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("expected a number from 1, not {text:?}")),
        Ok(number) => Ok(number),
    }
}

fn place(text: &str) -> Result<LineColumn, String> {
    let (line, column) = text.split_once(':').ok_or_else(|| format!("expected LINE:COLUMN, not {text:?}"))?;
    Ok(LineColumn { line: number(line)?, column: number(column)? })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some('n')) => {
                chars.next();
                out.push('\n');
            }
            ('\\', Some('\\')) => {
                chars.next();
                out.push('\\');
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expect: Command) {
        assert_eq!(Command::read(line), Ok(Some(expect)));
    }

    #[test]
    fn lines_are_read() {
        let at = LineColumn { line: 2, column: 3 };
        check("add", Command::Add(String::new()));
        check("  add  a b\\n\\\\n \r\n", Command::Add("a b\n\\n ".to_owned()));
        check("ins 2:3  x", Command::Insert { at, text: " x".to_owned() });
        check("del 2:3 4", Command::Delete { at, count: 4 });
        check("line 2", Command::Line { number: 2, text: None });
        check("replace a b => c", Command::Replace { old: "a b".to_owned(), new: "c".to_owned() });
        check("!7", Command::Again(7));
        assert_eq!(Command::read("   \n"), Ok(None));
    }

    #[test]
    fn what_is_wrong_comes_with_what_was_expected() {
        for (line, expect) in [
            ("dance", "no command `dance`"),
            ("ins 1 x", "LINE:COLUMN"),
            ("ins 1:0 x", "from 1"),
            ("del 1:1", "COUNT"),
            ("del 1:1 -4", "from 1"),
            ("line x", "from 1"),
            ("replace a", "OLD => NEW"),
            ("name", "a name"),
            ("!", "from 1"),
            ("at 99999999999999999999:1", "from 1"),
        ] {
            let wrong = Command::read(line).unwrap_err();
            assert!(wrong.contains(expect), "{line}: {wrong}");
        }
    }

    #[test]
    fn help_lists_every_command_that_is_read() {
        for line in HELP.lines().filter(|line| !line.starts_with("In TEXT")) {
            let word = line.split_whitespace().next().unwrap();
            let answer = Command::read(word);
            assert!(!answer.is_err_and(|wrong| wrong.contains("no command")), "{word}");
        }
    }
}
