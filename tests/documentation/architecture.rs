//! The map of the code: one refresh from file to file, and the modules.

use std::collections::BTreeSet;
use std::fs;

use super::page::{Page, root};

const PAGE: &str = "docs/architecture.md";

/// The text below a heading of the second level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, after) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    after.split_once("\n## ").map_or(after, |(section, _)| section)
}

/// Texts between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The source files that a text names, in order. A name without a folder is beside the file before it.
fn files(text: &str) -> Vec<String> {
    let mut folder = "";
    code(text)
        .filter(|name| name.ends_with(".rs"))
        .map(|name| match name.rsplit_once('/') {
            Some((of_file, _)) => {
                folder = of_file;
                name.to_owned()
            }
            None => format!("{folder}/{name}"),
        })
        .collect()
}

#[test]
fn a_refresh_passes_each_file_once_and_each_exists() {
    let page = Page::read(PAGE).text;
    let files = files(section(&page, "One refresh"));
    assert!(files.len() > 40, "{files:#?}");
    let mut seen = BTreeSet::new();
    for file in files {
        assert!(root().join(&file).is_file(), "there is no file {file}");
        assert!(seen.insert(file.clone()), "{file} is named twice");
    }
}

#[test]
fn the_table_of_modules_names_each_module_once() {
    let page = Page::read(PAGE).text;
    let rows = section(&page, "Modules")
        .lines()
        .filter(|line| line.starts_with("| `"));
    let mut named: Vec<_> = rows
        .flat_map(|row| code(row.split('|').nth(1).unwrap()))
        .collect();
    named.sort_unstable();
    let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut modules: Vec<_> = modules.collect();
    modules.sort_unstable();
    assert_eq!(named, modules);
}

#[test]
fn a_name_without_a_folder_is_beside_the_file_before_it() {
    assert_eq!(
        files("`src/a/b.rs` (`c.rs`), `D`, then `src/e.rs`."),
        ["src/a/b.rs", "src/a/c.rs", "src/e.rs"]
    );
}
