//! Rows of the table: the same work by each system, in interleaved rounds.

use std::time::{Duration, Instant};

use crate::peers::json_joy::JsonJoy;

/// A run that takes longer is not repeated.
const REPEATED_MAX: Duration = Duration::from_millis(1500);
/// For so long a short run is repeated in a round, so that it is not cold caches that are measured.
const ROUND_MIN: Duration = Duration::from_millis(20);
/// A run in pieces that takes longer is given up: who needs more than that for a row has no other figure in it.
const RUN_MAX: Duration = Duration::from_secs(15);

/// What is to be run.
pub struct Plan {
    pub js: Option<JsonJoy>,
    pub rounds: usize,
    /// Rows, or families of them; none for all.
    pub wanted: Vec<String>,
}

impl Plan {
    /// Whether a row is wanted, or any of a family.
    pub fn wants(&self, row: &str) -> bool {
        let within = |part: &str, whole: &str| {
            part.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| within(row, wanted) || within(wanted, row))
    }
}

type Run<'r> = Box<dyn FnMut() -> f64 + 'r>;

/// One piece of work, and who does it.
pub struct Row<'r> {
    name: String,
    unit: &'static str,
    runs: Vec<(String, Run<'r>, f64)>,
    /// The goal: how small ours should be beside another's, by name; "best" is the best of the others.
    goals: Vec<(f64, &'static str)>,
    /// The goal in the row's own unit.
    limit: Option<f64>,
}

impl<'r> Row<'r> {
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, runs: Vec::new(), goals: Vec::new(), limit: None }
    }

    /// Ours is to be at most the `part`th part of another's.
    pub fn goal(mut self, part: f64, of: &'static str) -> Self {
        self.goals.push((part, of));
        self
    }

    pub fn limit(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// A run that measures itself.
    pub fn add(&mut self, name: &str, run: impl FnMut() -> f64 + 'r) {
        self.runs.push((name.to_owned(), Box::new(run), f64::MAX));
    }

    /// json-joy's run of the row, where there is one.
    pub fn add_js(&mut self, plan: &'r Plan, name: &'static str) {
        if let Some(js) = &plan.js {
            self.add("json-joy", move || js.run(name));
        }
    }

    /// Runs everyone in turn, so that what else the machine does weighs on all alike; the best of each counts.
    pub fn run(mut self, rounds: usize) {
        let mut slow = vec![false; self.runs.len()];
        for _ in 0..rounds {
            for ((_, run, best), slow) in self.runs.iter_mut().zip(&mut slow) {
                if *slow {
                    continue;
                }
                let start = Instant::now();
                loop {
                    *best = run().min(*best);
                    if start.elapsed() > ROUND_MIN {
                        break;
                    }
                }
                *slow = start.elapsed() > REPEATED_MAX;
            }
        }
        self.print();
    }

    fn print(&self) {
        let ours = self.runs[0].2;
        print!("| {} | **{}**", self.name, show(ours, self.unit));
        for (name, _, value) in &self.runs[1..] {
            if *value < f64::MAX {
                print!(" | {name} {} ({:.1}×)", show(*value, self.unit), value / ours);
            } else {
                print!(" | {name} given up after {} s", RUN_MAX.as_secs());
            }
        }
        let mut verdicts = Vec::new();
        for &(part, of) in &self.goals {
            let others = self.runs[1..].iter().filter(|(name, ..)| of == "best" || name == of);
            let best = others.map(|run| run.2).fold(f64::MAX, f64::min);
            if best < f64::MAX && ours < f64::MAX {
                let verdict = if ours * part <= best { "met" } else { "missed" };
                verdicts.push(format!("≤ 1/{part} of {of}: {verdict} (1/{:.1})", best / ours));
            }
        }
        if let Some(limit) = self.limit {
            let verdict = if ours <= limit { "met" } else { "missed" };
            verdicts.push(format!("≤ {}: {verdict}", show(limit, self.unit)));
        }
        println!(" | {} |", verdicts.join("; "));
    }
}

fn show(value: f64, unit: &str) -> String {
    match unit {
        "B" if value >= 10_000.0 => format!("{:.1} KB", value / 1000.0),
        "B" => format!("{value:.0} B"),
        _ if value < 1.0 => format!("{value:.3} {unit}"),
        _ if value < 100.0 => format!("{value:.2} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// Milliseconds of some work; making ready before and checking and dropping after are not counted.
pub fn timed<S, T>(ready: S, work: impl FnOnce(S) -> T, check: impl FnOnce(T)) -> f64 {
    let start = Instant::now();
    let done = work(ready);
    let took = start.elapsed();
    check(done);
    took.as_secs_f64() * 1e3
}

/// [`timed`] for work that comes in many pieces: given up, as infinity, when it has taken [`RUN_MAX`].
pub fn timed_pieces<S, P>(
    mut state: S,
    pieces: impl Iterator<Item = P>,
    mut work: impl FnMut(&mut S, P),
    check: impl FnOnce(S),
) -> f64 {
    let start = Instant::now();
    for piece in pieces {
        work(&mut state, piece);
        if start.elapsed() > RUN_MAX {
            return f64::INFINITY;
        }
    }
    let took = start.elapsed();
    check(state);
    took.as_secs_f64() * 1e3
}
