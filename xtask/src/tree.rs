//! Checks on the tree itself: what a newcomer reads must be there, and true.

use std::fs;
use std::path::Path;

use crate::fuzz;
use crate::workspace::Workspace;

struct Tree {
    workspace: Workspace,
    files: Vec<String>,
}

impl Tree {
    fn load() -> Self {
        let workspace = Workspace::load().unwrap();
        let files = workspace.files().unwrap();
        Self { workspace, files }
    }

    fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.workspace.root.join(path)).unwrap()).into_owned()
    }

    fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a str> {
        self.files.iter().map(String::as_str).filter(move |path| path.ends_with(end))
    }
}

#[track_caller]
fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn every_module_has_a_head() {
    let tree = Tree::load();
    let headless = |path: &&str| {
        let source = tree.read(path);
        let first = source.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
        !first.is_some_and(|line| line.starts_with("//! "))
    };
    // A `tests.rs` is the end of the module that it tests, in a file of its own.
    let modules = tree.ending(".rs").filter(|path| !path.ends_with("/tests.rs"));
    let found: Vec<String> = modules.filter(headless).map(str::to_owned).collect();
    assert_none("these do not start with a `//!` that says what they are", &found);
}

/// Folders and files of the root that a text can only mean as paths of this tree.
const ROOTS: &[&str] =
    &["crates/", "docs/", "examples/", "xtask/", "clients/", "benches/", "fuzz/", ".ci/", ".cargo/"];

#[test]
fn every_path_that_a_text_names_exists() {
    let tree = Tree::load();
    let mut found = Vec::new();
    for page in tree.ending(".md") {
        let text = tree.read(page);
        let dir = Path::new(page).parent().unwrap();
        for target in link_targets(&text) {
            if !tree.workspace.root.join(dir).join(&target).exists() {
                found.push(format!("{page} links to {target}"));
            }
        }
        for named in outside_fences(&text).split('`').skip(1).step_by(2).filter_map(path_in) {
            if !tree.workspace.root.join(named).exists() {
                found.push(format!("{page} names {named}"));
            }
        }
    }
    // In source, prose may name any file; those of docs/ are the ones that move.
    for path in tree.ending(".rs").chain(tree.ending(".toml")).chain(tree.ending(".js")) {
        let text = tree.read(path);
        for rest in text.split("docs/").skip(1) {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "-_./".contains(c))).unwrap_or(rest.len());
            let Some((name, _)) = rest[..end].split_once(".md") else { continue };
            if !tree.workspace.root.join(format!("docs/{name}.md")).exists() {
                found.push(format!("{path} names docs/{name}.md"));
            }
        }
    }
    assert_none("named but not there", &found);
}

/// Targets of `[text](target)` that lie in this tree.
fn link_targets(text: &str) -> Vec<String> {
    let text = outside_fences(text);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '<']));
    local.map(|target| target.split('#').next().unwrap_or(target).to_owned()).collect()
}

/// A code span that is a path from the root; patterns and placeholders are none.
fn path_in(span: &str) -> Option<&str> {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    (plain && ROOTS.iter().any(|root| span.starts_with(root))).then_some(span)
}

/// The text without its code blocks, which show other people's paths and placeholders.
fn outside_fences(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[test]
fn no_path_of_a_developers_machine_is_in_the_tree() {
    // Put together here, so that this file does not find itself.
    let folders = [
        ["/ho", "me/"],
        ["/Us", "ers/"],
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["/tmp/", "weft"],
        ["C:\\Us", "ers"],
    ];
    // A lock file names the host that its packages came from unless npm is told not to write it.
    let hosts = [["registry.", "npmjs"], ["py", "pi.org"], ["deb.", "debian"], ["artifact", "ory"]];
    let tree = Tree::load();
    let mut found = Vec::new();
    for path in &tree.files {
        let bytes = fs::read(tree.workspace.root.join(path)).unwrap();
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        for word in folders.iter().chain(&hosts).map(|parts| parts.concat()) {
            if let Some(line) = text.lines().position(|line| line.contains(&word)) {
                found.push(format!("{path}:{}: {word}", line + 1));
            }
        }
    }
    assert_none("take these out (npm: `omit-lockfile-registry-resolved=true` in .npmrc)", &found);
}

#[test]
fn every_fuzz_target_has_a_source_and_a_corpus() {
    let tree = Tree::load();
    let mut found = Vec::new();
    for name in fuzz::targets(&tree.workspace).unwrap() {
        let has = |start: String| tree.files.iter().any(|path| path.starts_with(&start));
        if !has(format!("fuzz/fuzz_targets/{name}.rs")) {
            found.push(format!("fuzz/fuzz_targets/{name}.rs"));
        }
        if !has(format!("fuzz/corpus/{name}/")) {
            found.push(format!("fuzz/corpus/{name}/"));
        }
    }
    assert_none("missing", &found);
}

/// The invariants of the architecture, as the page numbers them.
const INVARIANTS: usize = 11;

#[test]
fn every_invariant_names_a_test_that_exists_or_says_that_there_is_none() {
    let tree = Tree::load();
    let page = tree.read("ARCHITECTURE.md");
    let section = page.split("\n## ").find(|part| part.starts_with("Invariants")).unwrap();
    let mut found = Vec::new();
    let mut count = 0;
    for item in section.split("\n\n") {
        let Some((number, text)) = item.trim_start().split_once(". ") else { continue };
        if number.parse() != Ok(count + 1) {
            continue;
        }
        count += 1;
        let tests = named_tests(text);
        if tests.is_empty() && !text.contains("No test yet") {
            found.push(format!("{number}: names no test and does not say so"));
        }
        for (name, path) in tests {
            // A test in JavaScript has a sentence for a name.
            let written = if path.ends_with(".rs") { format!("fn {name}") } else { name.clone() };
            let there = tree.files.contains(&path) && tree.read(&path).contains(&written);
            if !there {
                found.push(format!("{number}: no test `{name}` in {path}"));
            }
        }
    }
    assert_eq!(count, INVARIANTS, "numbered invariants in ARCHITECTURE.md, each a paragraph");
    assert_none("invariants without their test", &found);
}

/// The links `` [`name_of_test`](path) `` of a text.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let links = text.split("[`").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once("`](")?;
        let (path, _) = rest.split_once(')')?;
        Some((name.to_owned(), path.to_owned()))
    });
    links
        .filter(|(_, path)| path.ends_with(".rs") || path.ends_with(".mjs") || path.ends_with(".js"))
        .collect()
}

#[test]
fn each_decision_has_a_number_of_its_own_and_its_title_repeats_it() {
    let tree = Tree::load();
    let mut found = Vec::new();
    let mut numbers = std::collections::BTreeSet::new();
    for path in tree.ending(".md").filter(|path| path.starts_with("docs/decisions/0")) {
        let number = &path["docs/decisions/".len()..][..4];
        if !numbers.insert(number.to_owned()) || !tree.read(path).starts_with(&format!("# {number}: ")) {
            found.push(path.to_owned());
        }
    }
    assert_none("these share a number, or their title does not start with it", &found);
}
