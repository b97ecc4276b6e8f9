//! Where the API server is asked for Secrets: a name becomes a part of a URL, so it has to be a checked one.

use std::fs;

use crate::names::sources;
use crate::tree::{shown, workspace};

/// The calls by a checked name; the lists and watches of the term; and the operator's own Secret, whose name is a constant.
const ALLOWED: [&str; 3] = [
    "src/controller/cluster/secret_calls.rs",
    "src/controller/leading/key.rs",
    "src/controller/leading/session.rs",
];

#[test]
fn secrets_are_asked_for_by_checked_names_only() {
    let mut files = Vec::new();
    sources(&workspace().join("src"), &mut files);
    let mut found: Vec<_> = files
        .iter()
        .filter(|file| {
            let text = fs::read_to_string(file).unwrap();
            // Code, and no test of it.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            [
                "Api<Secret>",
                "Api<PartialObjectMeta<Secret>>",
                "Secret::url_path",
                "}/secrets",
            ]
            .iter()
            .any(|api| code.contains(api))
        })
        .map(|file| shown(file))
        .filter(|file| !file.ends_with("/tests.rs"))
        .collect();
    found.sort_unstable();
    assert_eq!(found, ALLOWED);
}
