//! Which crate may use which: the table of ARCHITECTURE.md, compared with the manifests.

use crate::workspace::Workspace;

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The crate.
    pub name: &'static str,
    /// The crates of this workspace that it may use, in its tests too.
    pub may_use: &'static [&'static str],
    /// Crates from outside that would break the sentence about what it does not know. A `*` ends a prefix.
    pub never: &'static [&'static str],
}

/// Bottom up.
pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        name: "crdt-core",
        may_use: &[],
        never: &["tokio*", "async-*", "futures*", "mio", "rand*", "getrandom", "rayon", "chrono", "time"],
    },
    Layer {
        name: "spot",
        may_use: &["crdt-core"],
        never: &["json-patch", "fjall", "mongodb", "axum*", "hyper*"],
    },
    Layer {
        name: "nodestorage",
        may_use: &["crdt-core"],
        never: &["axum*", "hyper*", "tokio-tungstenite", "zeromq"],
    },
    Layer {
        name: "crdt-sync",
        may_use: &["crdt-core", "spot", "nodestorage"],
        never: &["axum*", "hyper*", "tower*", "reqwest"],
    },
    Layer { name: "eventsync", may_use: &["crdt-core", "spot", "nodestorage"], never: &["zeromq"] },
    Layer { name: "games", may_use: &["crdt-core", "spot", "nodestorage", "eventsync"], never: &[] },
    Layer { name: "notes", may_use: &["crdt-core", "spot", "nodestorage", "crdt-sync"], never: &[] },
    Layer { name: "xtask", may_use: &[], never: &[] },
];

/// Every edge of the manifests that the table does not have, as a sentence each.
pub(crate) fn violations(workspace: &Workspace) -> Vec<String> {
    let members: Vec<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    let mut found = Vec::new();
    for package in &workspace.packages {
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == package.name) else {
            found.push(format!(
                "`{}` is in no layer: add it to xtask/src/layers.rs and ARCHITECTURE.md",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if members.contains(&name) && name != package.name && !layer.may_use.contains(&name) {
                found.push(format!("`{}` may not use `{name}`", package.name));
            }
            // Tests may draw randomness, run a server or start an executor.
            if !dependency.dev && layer.never.iter().any(|pattern| matches(pattern, name)) {
                found
                    .push(format!("`{}` may not use `{name}`: it would know what it must not", package.name));
            }
        }
    }
    found
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, Package};

    #[test]
    fn the_manifests_have_no_edge_that_the_table_has_not() {
        let workspace = Workspace::load().unwrap();
        assert_eq!(violations(&workspace), [""; 0]);
    }

    #[test]
    fn the_page_shows_the_same_table() {
        let page = include_str!("../../ARCHITECTURE.md");
        for layer in LAYERS {
            let head = format!("| `{}` |", layer.name);
            let row = page.lines().find(|line| line.starts_with(&head));
            let cell = row.and_then(|row| row.trim_end_matches('|').rsplit('|').next()).map(str::trim);
            let mut named: Vec<&str> =
                cell.unwrap_or_default().split(',').map(|name| name.trim().trim_matches('`')).collect();
            named.retain(|name| !name.is_empty() && *name != "nothing");
            assert_eq!(named, layer.may_use, "last column of `{}` in ARCHITECTURE.md", layer.name);
        }
    }

    #[test]
    fn a_wrong_edge_is_found() {
        let edge = |name: &str, dev| Dependency { name: name.to_owned(), dev };
        let package =
            |name: &str, dependencies| Package { name: name.to_owned(), dir: "".into(), dependencies };
        let workspace = Workspace {
            root: "".into(),
            target: "".into(),
            packages: vec![
                package("crdt-core", vec![edge("tokio", false), edge("rand", true), edge("spot", true)]),
                package("spot", vec![edge("crdt-core", false)]),
                package("new", vec![]),
            ],
        };
        let found = violations(&workspace);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("`tokio`") && found[1].contains("`spot`") && found[2].contains("no layer"));
    }
}
