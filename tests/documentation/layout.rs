//! Length of the README, and width of lines.

use super::page::{Page, pages};

const README_LINES: usize = 150;
const LINE_CHARACTERS: usize = 120;

/// Lines that are too long, but for those that cannot be broken: code, tables, lines with a link, and the name of a test in
/// a list.
fn long_lines(text: &str) -> Vec<usize> {
    let mut is_code = false;
    let mut long = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let is_free = is_code
            || ["|", "- `"]
                .iter()
                .any(|begin| line.trim_start().starts_with(begin))
            || ["](", "://"].iter().any(|part| line.contains(part));
        if !is_free && line.chars().count() > LINE_CHARACTERS {
            long.push(number);
        }
    }
    long
}

#[test]
fn the_readme_is_read_in_one_go() {
    let lines = Page::read("README.md").text.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
}

#[test]
fn lines_are_at_most_120_characters_wide() {
    let long: Vec<_> = pages()
        .iter()
        .flat_map(|page| {
            let path = page.path.display().to_string();
            long_lines(&page.text)
                .into_iter()
                .map(move |line| format!("{path}:{line}"))
        })
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn a_long_line_is_found_unless_it_cannot_be_broken() {
    let long = "a".repeat(LINE_CHARACTERS + 1);
    let text = format!("{long}\n```sh\n{long}\n```\n| {long} |\n[{long}](b)\n{long}");
    assert_eq!(long_lines(&text), [1, 7]);
}
