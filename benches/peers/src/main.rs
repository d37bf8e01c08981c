//! The same work by Weft and by its peers, beside each other in one run.
//!
//! `cargo run --release -- TRACES [ROWS…]`, where TRACES is a folder with `automerge-paper.json.gz` and
//! `friendsforever.concurrent.json.gz`, and ROWS are some of `local`, `messages`, `remote`, `concurrent`, `load`, `encode`,
//! `changed`, `sizes`, `memory`, `keys`, `large`, `b1`, `b2`, `b3`, or one row of the last such as `b1.4`; all without any. `WEFT_ROUNDS` is the number of
//! rounds (3); they are interleaved and the best of each counts, so that what else the machine does weighs on all alike. `WEFT_JSON_JOY` names a
//! folder whose `node_modules` have json-joy 17.67.0 (`npm ci` in `crates/crdt-core/tests/json-joy` makes one); without it json-joy is left out.
//! Every run ends in an assertion on what it made; one that takes too long is given up, and the row says so.

mod memory;
mod peers;
mod rows;
mod table;

use peers::json_joy::JsonJoy;
use rows::{bench, json, text};
use table::Plan;

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

fn main() {
    let mut args = std::env::args().skip(1);
    let traces = args.next().expect("a folder with traces");
    let wanted: Vec<String> = args.collect();
    let rounds = std::env::var("WEFT_ROUNDS").map_or(3, |rounds| rounds.parse().expect("a number of rounds"));
    let plan = Plan { js: JsonJoy::start(&traces), rounds, wanted };
    let concurrent = format!("{traces}/friendsforever.concurrent.json.gz");
    let trace = text::trace(&format!("{traces}/automerge-paper.json.gz"));
    println!("| work | weft | others | goal |\n|---|---|---|---|");
    let rows: [(&str, &dyn Fn()); 14] = [
        ("local", &|| text::local(&trace, &plan)),
        ("messages", &|| text::messages(&trace, &plan)),
        ("remote", &|| text::remote(&trace, &plan)),
        ("concurrent", &|| text::concurrent(&concurrent, &plan)),
        ("load", &|| text::load(&trace, &plan)),
        ("encode", &|| text::encode(&trace, &plan)),
        ("changed", &|| text::encode_changed(&trace, &plan)),
        ("sizes", &|| text::sizes(&trace, &plan)),
        ("memory", &|| text::memory(&trace)),
        ("keys", &|| json::keys(&plan)),
        ("large", &|| json::large(&plan)),
        ("b1", &|| bench::b1(&plan)),
        ("b2", &|| bench::b2(&plan)),
        ("b3", &|| bench::b3(&plan)),
    ];
    for (name, run) in rows {
        if plan.wants(name) {
            run();
        }
    }
}
