//! Lines from a terminal, with editing and history, or from a pipe.

use std::io::{IsTerminal, Write};

use rustyline::{Config, DefaultEditor, ExternalPrinter, error::ReadlineError};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
};

use super::{Ended, run::HISTORY_MAX};

/// The longest line that is read from a pipe, in bytes; a longer one ends the input.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Where answers go.
pub(super) enum Screen {
    /// A terminal: its thread shows the prompt again when it is told to.
    Terminal { printer: Box<dyn FnMut(String) + Send>, next: std::sync::mpsc::Sender<()> },
    /// A pipe, for scripts and tests.
    Pipe,
}

impl Screen {
    /// Begins to read lines.
    pub(super) fn open(doc: &str, lines: mpsc::Sender<String>) -> Self {
        if std::io::stdin().is_terminal()
            && std::io::stdout().is_terminal()
            && let Ok(mut editor) = editor()
            && let Ok(mut printer) = editor.create_external_printer()
        {
            let (next, ready) = std::sync::mpsc::channel();
            let prompt = format!("{doc}> ");
            std::thread::spawn(move || read_terminal(&mut editor, &prompt, &lines, &ready));
            let printer = move |text| {
                let _ = printer.print(text);
            };
            return Self::Terminal { printer: Box::new(printer), next };
        }
        tokio::spawn(read_pipe(lines));
        Self::Pipe
    }

    /// Prints an answer.
    pub(super) fn say(&mut self, answer: &str) {
        if !answer.is_empty() {
            print(answer);
        }
    }

    /// The command is done.
    pub(super) fn ready(&mut self) {
        match self {
            Self::Terminal { next, .. } => {
                let _ = next.send(());
            }
            // A script that waits for an answer gets one also when there is nothing to say.
            Self::Pipe => print("ok"),
        }
    }

    /// Prints something that nobody asked for, above the line that is being typed.
    pub(super) fn tell(&mut self, news: &str) {
        match self {
            Self::Terminal { printer, .. } => printer(format!("· {news}\n")),
            Self::Pipe => print(&format!("· {news}")),
        }
    }

    /// What it means that there are no more lines.
    pub(super) fn ended(&self) -> Ended {
        match self {
            Self::Terminal { .. } => Ended::Quit,
            Self::Pipe => Ended::InputClosed,
        }
    }
}

fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    // Who reads this may be gone already.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn editor() -> rustyline::Result<DefaultEditor> {
    let config = Config::builder().max_history_size(HISTORY_MAX)?.auto_add_history(true).build();
    DefaultEditor::with_config(config)
}

fn read_terminal(
    editor: &mut DefaultEditor,
    prompt: &str,
    lines: &mpsc::Sender<String>,
    ready: &std::sync::mpsc::Receiver<()>,
) {
    loop {
        match editor.readline(prompt) {
            Ok(line) => {
                if lines.blocking_send(line).is_err() || ready.recv().is_err() {
                    return;
                }
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return,
            Err(error) => {
                tracing::warn!(%error, "the terminal can't be read");
                return;
            }
        }
    }
}

async fn read_pipe(lines: mpsc::Sender<String>) {
    let mut input = BufReader::new(tokio::io::stdin());
    loop {
        let mut line = Vec::new();
        let mut limited = tokio::io::AsyncReadExt::take(&mut input, LINE_BYTES_MAX as u64);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(read) if read == LINE_BYTES_MAX => return,
            Ok(_) => {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).await.is_err() {
                    return;
                }
            }
        }
    }
}
