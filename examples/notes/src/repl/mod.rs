//! The terminal: a line is a command, what it says comes back as lines.

mod command;
mod run;
mod terminal;
mod trouble;

use std::sync::Arc;

use tokio::sync::{broadcast::error::RecvError, mpsc};

use self::{command::Command, run::Desk, terminal::Screen, trouble::Trouble};
use crate::{options::Options, replica::Replica};

/// Lines that wait to be carried out. Above it the terminal waits.
const LINES_MAX: usize = 16;

/// Why the terminal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its user wants the program to stop.
    Quit,
    /// Nobody types here any more.
    InputClosed,
}

/// Reads commands and carries them out, until the input ends or `quit`.
pub(crate) async fn run(replica: &Arc<Replica>, options: &Options) -> Ended {
    let (lines, mut typed) = mpsc::channel(LINES_MAX);
    let mut screen = Screen::open(&options.doc, lines);
    let mut desk = Desk::new(Arc::clone(replica), options.name.clone());
    let mut others = replica.others_changed();
    let mut events = replica.manager.events();
    let mut trouble = Trouble::default();
    loop {
        tokio::select! {
            line = typed.recv() => {
                let Some(line) = line else { return screen.ended() };
                let answer = match Command::read(&line) {
                    Ok(Some(Command::Quit)) => return Ended::Quit,
                    Ok(Some(command)) => desk.carry_out(command, &line).await,
                    Ok(None) => Ok(String::new()),
                    Err(wrong) => Err(wrong),
                };
                match answer {
                    Ok(answer) => screen.say(&answer),
                    Err(wrong) => screen.say(&format!("! {wrong}")),
                }
                screen.ready();
            }
            event = events.recv() => match event {
                Ok(event) => trouble.about(&event).iter().for_each(|news| screen.tell(news)),
                // What was missed is counted in `status`.
                Err(RecvError::Lagged(_)) => {}
                // The replica goes.
                Err(RecvError::Closed) => events = replica.manager.events(),
            },
            _ = others.changed() => {
                for news in desk.who_came_and_went() {
                    screen.tell(&news);
                }
            }
        }
    }
}
