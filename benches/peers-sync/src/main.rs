//! The same edits, synchronised by Weft and by its peers: in one process and one thread, round by round in one run.
//!
//! `cargo run --release -- [ROUNDS] [live|catch-up|all|REPLICAS] [SYSTEM]`. The rounds are interleaved and the median of each is shown. What every system does
//! for an edit: make it, write it to bytes, and read and apply it at every other replica. Ours keeps it in a store and
//! goes through the session machine besides. Each run ends in an assertion on the text of all replicas.

mod systems;
mod weft;

use std::time::{Duration, Instant};

use systems::{SYSTEMS, System};

/// One insertion of a character by one of the replicas.
#[derive(Clone, Copy)]
pub struct Edit {
    pub author: usize,
    pub position: usize,
    pub character: char,
}

/// How many characters are typed at a place before the next one.
const WORD: usize = 8;

/// Xorshift.
struct Random(u64);

impl Random {
    const fn new() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }

    const fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// People who type words at places of their own choice: everybody sees everything at once, so positions are of the one
/// text that all have. `turn` characters after each other are of one author.
pub fn script(authors: usize, count: usize, turn: usize) -> (Vec<Edit>, String) {
    let mut random = Random::new();
    let mut text: Vec<char> = Vec::new();
    let mut cursors = vec![0; authors];
    let mut edits = Vec::with_capacity(count);
    for index in 0..count {
        let author = index / turn % authors;
        if index / authors % WORD == 0 {
            cursors[author] = random.below(text.len() + 1);
        }
        let (position, character) = (cursors[author], char::from(b'a' + random.below(26) as u8));
        text.insert(position, character);
        for (other, cursor) in cursors.iter_mut().enumerate() {
            *cursor += usize::from(*cursor > position || other == author);
        }
        edits.push(Edit { author, position, character });
    }
    (edits, text.into_iter().collect())
}

/// Edits, and the text at the end.
pub struct Script {
    /// Made one after the other before the clock runs.
    pub prepared: Vec<Edit>,
    pub edits: Vec<Edit>,
    /// So many of them are made before any is taken in elsewhere.
    pub at_once: usize,
    pub text: String,
}

impl Script {
    /// Everybody sees everything before the next edit is made.
    fn by_turns(replicas: usize, count: usize) -> Self {
        let (edits, text) = script(replicas, count, 1);
        Self { prepared: Vec::new(), edits, at_once: 1, text }
    }

    /// Everybody types a character, then takes in those of all others: replicas that are tasks or machines of their own.
    /// A text is there already, and no two type at one place, so that all systems must come to the same text.
    fn at_once(replicas: usize, count: usize) -> Self {
        let mut random = Random::new();
        let mut text: Vec<char> = Vec::new();
        let type_one = |text: &mut Vec<char>, random: &mut Random, author: usize, position: usize| {
            let character = char::from(b'a' + random.below(26) as u8);
            text.insert(position, character);
            Edit { author, position, character }
        };
        let prepared = (0..replicas * 4).map(|at| type_one(&mut text, &mut random, 0, at)).collect();
        let mut cursors: Vec<usize> = (0..replicas).map(|author| author * 4).collect();
        let mut edits = Vec::new();
        for round in 0..count / replicas {
            for author in 0..replicas {
                while round % WORD == 0 {
                    let to = random.below(text.len() + 1);
                    if !cursors.contains(&to) {
                        cursors[author] = to;
                        break;
                    }
                }
            }
            // All positions are of the text that everybody has at the start of the round. Put in from the last one on,
            // they are the same in what becomes of it.
            let mut authors: Vec<usize> = (0..replicas).collect();
            authors.sort_by_key(|author| cursors[*author]);
            let mut made: Vec<Edit> = authors
                .iter()
                .rev()
                .map(|&author| type_one(&mut text, &mut random, author, cursors[author]))
                .collect();
            for (before, author) in authors.into_iter().enumerate() {
                cursors[author] += before + 1;
            }
            made.sort_by_key(|edit| edit.author);
            edits.extend(made);
        }
        Self { prepared, edits, at_once: replicas, text: text.into_iter().collect() }
    }
}

/// What one run took.
#[derive(Clone, Copy)]
pub struct Run {
    pub time: Duration,
    pub bytes: usize,
    /// The same until one more edit of the source, made after the text was read, is in it: what a system has put off for
    /// later is done by then.
    pub taking_part: Duration,
}

pub fn timed(work: impl FnOnce() -> usize) -> Run {
    let start = Instant::now();
    let bytes = work();
    let time = start.elapsed();
    Run { time, bytes, taking_part: time }
}

impl Run {
    /// With one more edit of the source, taken in.
    pub fn and_then(self, work: impl FnOnce()) -> Self {
        let Run { time: more, .. } = timed(|| {
            work();
            0
        });
        Self { taking_part: self.time + more, ..self }
    }
}

fn median(runs: &mut [Run]) -> Run {
    runs.sort_by_key(|run| run.time);
    runs[runs.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
    let what = arguments.next().unwrap_or_else(|| "all".to_owned());
    let name = arguments.next();
    let chosen: Vec<&System> =
        SYSTEMS.iter().filter(|system| name.as_deref().is_none_or(|name| system.name == name)).collect();
    assert!(!chosen.is_empty(), "no such system");
    let only: Option<usize> = what.parse().ok();
    if what != "catch-up" {
        live(rounds, only, &chosen);
    }
    if what != "live" && only.is_none() {
        catch_up(rounds, &chosen);
    }
}

/// How a script of so many replicas and edits is made.
type Schedule = fn(usize, usize) -> Script;

fn live(rounds: usize, only: Option<usize>, chosen: &[&System]) {
    let schedules: [(&str, Schedule); 2] = [
        ("each edit is taken in by all before the next is made", Script::by_turns),
        ("everybody types a character, then takes in the others'", Script::at_once),
    ];
    for (title, schedule) in schedules {
        println!("live: {title}. Thousand patches applied per second, bytes per edit on the wire.");
        let sizes = [(2, 20_000), (8, 4_000), (64, 640)];
        for (replicas, count) in
            sizes.into_iter().filter(|(replicas, _)| only.is_none_or(|only| only == *replicas))
        {
            live_with(rounds, chosen, replicas, |share| schedule(replicas, count / share));
        }
    }
}

fn live_with(rounds: usize, chosen: &[&System], replicas: usize, script: impl Fn(usize) -> Script) {
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); chosen.len()];
    for _ in 0..rounds {
        for (system, runs) in chosen.iter().zip(&mut runs) {
            runs.push((system.live)(replicas, &script(system.share)));
        }
    }
    println!("  {replicas} replicas, {} edits", script(1).edits.len());
    for (system, runs) in chosen.iter().zip(&mut runs) {
        let run = median(runs);
        let edits = script(system.share).edits.len() as f64;
        let applied = edits * (replicas - 1) as f64 / run.time.as_secs_f64() / 1000.0;
        println!("    {:24} {applied:10.1} k/s {:8.1} B", system.name, run.bytes as f64 / edits);
    }
}

fn catch_up(rounds: usize, chosen: &[&System]) {
    println!(
        "catch-up: a replica with nothing takes over 100 000 edits. Milliseconds until its text is read: when nothing"
    );
    println!(
        "was edited since the last one came, and when one edit was; until the next edit of the source is in it too. Bytes."
    );
    for system in chosen.iter().filter(|system| system.share > 1) {
        println!("({}: {} edits)", system.name, 100_000 / system.share);
    }
    let scripts: Vec<_> = chosen.iter().map(|system| script(2, 100_000 / system.share, 500)).collect();
    let mut runs: Vec<[Vec<Run>; 2]> = vec![[Vec::new(), Vec::new()]; chosen.len()];
    let sources = chosen.iter().zip(&scripts).map(|(system, (edits, _))| (system.source)(2, edits));
    let mut sources: Vec<_> = sources.collect();
    // First the source stands still: what a system keeps from one who comes late to the next counts. Then it goes on.
    for goes_on in [false, true] {
        for _ in 0..rounds {
            for ((source, runs), (_, text)) in sources.iter_mut().zip(&mut runs).zip(&scripts) {
                runs[usize::from(goes_on)].push(source(text, goes_on));
            }
        }
    }
    for (system, [still, runs]) in chosen.iter().zip(&mut runs) {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (still, run) = (median(still), median(runs));
        let (unedited, edited, part) = (ms(still.time), ms(run.time), ms(run.taking_part));
        println!("    {:24} {unedited:9.2} ms {edited:9.2} ms {part:9.2} ms {:9} B", system.name, run.bytes);
    }
}
