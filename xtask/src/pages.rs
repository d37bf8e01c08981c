//! What pages copy from elsewhere: README.md the first program of each crate's documentation, which the doc tests
//! run, and the list of decisions their titles. A test compares, `cargo xtask pages` copies.

use std::fs;

use anyhow::{Context, Result};

use crate::workspace::{Package, Workspace};

/// Stands in README.md before the program of a crate.
fn marker(package: &Package) -> String {
    format!(
        "<!-- The first program of {0}'s documentation; `cargo xtask pages` copies it. -->\n",
        package.name
    )
}

/// README.md with the programs as the crates have them now.
fn with_programs(workspace: &Workspace, readme: &str) -> Result<String> {
    let mut readme = readme.to_owned();
    for package in workspace.libraries() {
        let source = fs::read_to_string(package.dir.join("src/lib.rs"))?;
        let Some(program) = first_program(&source) else { continue };
        let marker = marker(package);
        let (before, rest) = readme.split_once(&marker).with_context(|| {
            format!("README.md has no place for {}: add the line\n{marker}", package.name)
        })?;
        // What stands behind the marker is replaced if it is a program, else the program is put there.
        let after = match rest.strip_prefix("```rust\n").and_then(|rest| rest.split_once("\n```\n")) {
            Some((_, after)) => after,
            None => rest,
        };
        readme = format!("{before}{marker}```rust\n{program}```\n{after}");
    }
    Ok(readme)
}

/// The first Rust block in the head of a crate, as readers see it: without its hidden lines.
fn first_program(source: &str) -> Option<String> {
    let mut program = String::new();
    // Within a block: whether it is Rust.
    let mut block: Option<bool> = None;
    for line in source.lines() {
        let Some(text) = line.strip_prefix("//!") else { break };
        let text = text.strip_prefix(' ').unwrap_or(text);
        if let Some(info) = text.strip_prefix("```") {
            block = match block {
                Some(true) => return Some(program),
                Some(false) => None,
                None => Some(info.is_empty() || info.starts_with("rust") || info.starts_with("no_run")),
            };
        } else if block == Some(true) && text != "#" && !text.starts_with("# ") {
            program.push_str(text);
            program.push('\n');
        }
    }
    None
}

const DECISIONS: &str = "docs/decisions";

/// The list of decisions, whose head is kept and whose items are made from the titles.
fn with_decisions(workspace: &Workspace, list: &str) -> Result<String> {
    let mut list: String = list
        .lines()
        .take_while(|line| !line.starts_with("- "))
        .fold(String::new(), |head, line| head + line + "\n");
    for path in workspace.files()? {
        let Some(name) = path.strip_prefix(DECISIONS).and_then(|name| name.strip_prefix('/')) else {
            continue;
        };
        if name != "README.md" && name.ends_with(".md") {
            let text = fs::read_to_string(workspace.root.join(&path))?;
            let title = text.lines().next().and_then(|line| line.strip_prefix("# "));
            let title = title.with_context(|| format!("{path} does not start with a title"))?;
            list += &format!("- [{title}]({name})\n");
        }
    }
    Ok(list)
}

/// Brings the pages up to date.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    let readme = workspace.root.join("README.md");
    fs::write(&readme, with_programs(workspace, &fs::read_to_string(&readme)?)?)?;
    let list = workspace.root.join(DECISIONS).join("README.md");
    fs::write(&list, with_decisions(workspace, &fs::read_to_string(&list)?)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_shows_the_programs_of_the_crates() {
        let workspace = Workspace::load().unwrap();
        let readme = fs::read_to_string(workspace.root.join("README.md")).unwrap();
        let expected = with_programs(&workspace, &readme).unwrap();
        assert!(readme == expected, "README.md shows an older program: run `cargo xtask pages`");
    }

    #[test]
    fn decisions_are_listed_by_their_titles() {
        let workspace = Workspace::load().unwrap();
        let list = fs::read_to_string(workspace.root.join(DECISIONS).join("README.md")).unwrap();
        let expected = with_decisions(&workspace, &list).unwrap();
        assert!(list == expected, "the list of decisions is older than they are: run `cargo xtask pages`");
    }

    #[test]
    fn the_first_program_is_read_without_its_hidden_lines() {
        let source = "//! Head.\n//!\n//! ```text\n//! a → b\n//! ```\n//!\n//! ```\n//! # use x;\n//! a();\n//!\n//! b();\n//! ```\nmod c;\n";
        assert_eq!(first_program(source).unwrap(), "a();\n\nb();\n");
        assert_eq!(first_program("//! Head.\n\npub mod a;\n"), None);
    }
}
