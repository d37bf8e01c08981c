//! `docs/storage-options.md` has a row for every option and every error, and the tests that it names are there.

use std::{collections::BTreeSet, fs, path::Path};

const PAGE: &str = include_str!("../../../docs/storage-options.md");

/// The names in the first column below a heading, and those of tests in the last.
fn rows(heading: &str) -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|line| line.trim_matches('|').split('|').collect::<Vec<_>>());
    cells.fold(Default::default(), |(mut names, mut tests): (BTreeSet<_>, BTreeSet<_>), cells| {
        assert!(quoted(cells[2]).count() > 0, "{} is shown by nothing", cells[0]);
        names.extend(quoted(cells[0]));
        tests.extend(quoted(cells[2]));
        (names, tests)
    })
}

/// The names at the beginnings of the lines of a block, behind an indentation of four.
fn members<'s>(source: &'s str, block: &str, before: &str) -> BTreeSet<&'s str> {
    let (_, rest) = source.split_once(block).unwrap();
    let (inside, _) = rest.split_once("\n}\n").unwrap();
    let lines = inside.lines().filter_map(|line| line.strip_prefix("    ")?.strip_prefix(before));
    let names = lines.map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap());
    names.filter(|name| !name.is_empty()).collect()
}

fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_option_and_error_is_in_the_page_with_a_test_that_is_there() {
    let options = members(include_str!("../src/options.rs"), "pub struct StorageOptions {", "pub ");
    let errors = members(include_str!("../src/error.rs"), "pub enum StorageError {", "");
    let mut all = String::new();
    for folder in ["src", "tests"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut all);
    }
    for (heading, names) in [("Options", options), ("Errors", errors)] {
        let (rows, tests) = rows(heading);
        assert_eq!(rows, names, "{heading} of the page and of the source");
        for test in tests {
            assert!(all.contains(&format!("fn {test}(")), "{test} is no test");
        }
    }
}
