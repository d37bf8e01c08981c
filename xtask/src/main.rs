//! Builds, checks and tests the workspace: `cargo xtask test-all`.

fn main() {}
