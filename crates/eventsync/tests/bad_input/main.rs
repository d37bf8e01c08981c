//! Whatever comes from outside is answered with what was wrong, and the store is as it was.

mod frames;
mod requests;
#[path = "../support/mod.rs"]
mod support;

fn nested(levels: usize) -> String {
    format!(r#"{{"name":"x","a":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
}
