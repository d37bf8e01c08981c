//! How long the source files are. A report and no rule: a long file may be one thing that would be worse in two.

use std::fs;

use anyhow::Result;

use crate::workspace::Workspace;

/// From here on a file is hardly one sitting.
pub(crate) const LONG_LINES: usize = 500;

/// Lines and path of each Rust or JavaScript file, longest first.
pub(crate) fn longest_first(workspace: &Workspace) -> Result<Vec<(usize, String)>> {
    let mut found = Vec::new();
    for path in workspace.files()? {
        if path.ends_with(".rs") || path.ends_with(".js") || path.ends_with(".mjs") {
            let lines = fs::read_to_string(workspace.root.join(&path))?.lines().count();
            found.push((lines, path));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}
