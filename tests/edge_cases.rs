//! `docs/edge-cases.md` has each of the 42 edge cases, `docs/findings.md` each finding, `docs/security.md` each threat,
//! and what they name exists.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CASES: usize = 42;
const THREATS: usize = 12;
/// Findings of each part of their page: answers, surroundings, neighbours.
const FINDINGS: [(&str, usize); 3] = [("A", 19), ("B", 16), ("C", 16)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What an entry names below "Shown by:".
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// File, function and, behind `::`, a case of its table.
    Test {
        file: String,
        function: String,
        case: Option<String>,
    },
    /// Vendor and name of a recorded exchange.
    Exchange(String),
    /// A file as a whole.
    File(String),
}

/// An edge case or a threat: a heading `### LABEL. Title`, a text, and a list of what shows it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    label: String,
    /// The heading without its label, and the text.
    text: String,
    named: Vec<Named>,
}

/// The entries of a page, in their order.
fn entries(page: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut is_entry = false;
    let mut is_list = false;
    for line in page.lines() {
        if line.starts_with('#') {
            is_list = false;
            is_entry = line.starts_with("### ");
            if let Some(heading) = line.strip_prefix("### ") {
                let (label, title) = heading.split_once(". ").expect(line);
                entries.push(Entry {
                    label: label.to_owned(),
                    text: title.to_owned(),
                    named: Vec::new(),
                });
            }
        } else if let Some(entry) = entries.last_mut().filter(|_| is_entry) {
            if line == "Shown by:" {
                is_list = true;
            } else if let Some(item) = line.strip_prefix("- ").filter(|_| is_list) {
                entry.named.push(named(item));
            } else {
                assert!(!is_list || line.is_empty(), "one name a line: {line}");
                entry.text.push_str(line);
            }
        }
    }
    entries
}

/// One item: `` `file`: `function::case` ``, `` `file` `` alone, or `` recorded: `vendor/name` ``.
fn named(item: &str) -> Named {
    let spans: Vec<_> = item.split('`').collect();
    match spans[..] {
        ["recorded: ", exchange, ""] => Named::Exchange(exchange.to_owned()),
        ["", file, ""] => Named::File(file.to_owned()),
        ["", file, ": ", test, ""] => {
            let (function, case) = match test.split_once("::") {
                Some((function, case)) => (function, Some(case.to_owned())),
                None => (test, None),
            };
            Named::Test {
                file: file.to_owned(),
                function: function.to_owned(),
                case,
            }
        }
        _ => panic!("neither a test, a file nor a recorded exchange: {item}"),
    }
}

/// The attributes right above the function, as one text; nothing where there is no such function.
fn attributes<'a>(source: &'a str, function: &str) -> Option<&'a str> {
    let at = [format!("fn {function}("), format!("fn {function}<")]
        .iter()
        .find_map(|declaration| source.find(declaration))?;
    let before = &source[..at];
    // Attributes and case tables stand between the end of the item before and the function.
    let start = ["\n}\n", "\n    }\n"]
        .iter()
        .filter_map(|end| before.rfind(end))
        .max();
    Some(&before[start.unwrap_or(0)..])
}

fn missing(named: &Named) -> Option<String> {
    match named {
        Named::Exchange(name) => {
            let path: PathBuf = root().join("tests/fixtures").join(format!("{name}.json"));
            (!path.is_file()).then(|| format!("there is no recorded exchange {name}"))
        }
        Named::File(path) => (!root().join(path).is_file()).then(|| format!("there is no file {path}")),
        Named::Test { file, function, case } => {
            let Ok(source) = fs::read_to_string(root().join(file)) else {
                return Some(format!("there is no file {file}"));
            };
            let Some(attributes) = attributes(&source, function) else {
                return Some(format!("there is no {function} in {file}"));
            };
            let is_test = ["#[test]", "#[tokio::test", "#[rstest]"]
                .iter()
                .any(|attribute| attributes.contains(attribute));
            if !is_test || attributes.contains("#[ignore") {
                return Some(format!("{function} in {file} is no test that runs"));
            }
            let case = case.as_ref()?;
            let has = attributes.contains(&format!("#[case::{case}("));
            (!has).then(|| format!("{function} in {file} has no case {case}"))
        }
    }
}

fn read(page: &str) -> Vec<Entry> {
    entries(&fs::read_to_string(root().join(page)).expect(page))
}

/// Asserts that the page has exactly these entries, that each says something, and that what it names exists.
fn assert_complete(page: &str, labels: impl Iterator<Item = String>) {
    let entries = read(page);
    let found: Vec<_> = entries.iter().map(|entry| entry.label.clone()).collect();
    assert_eq!(found, labels.collect::<Vec<_>>(), "{page}");
    let mut wrong = Vec::new();
    for Entry { label, text, named } in &entries {
        if text.len() <= 40 {
            wrong.push(format!("{label} says nothing"));
        }
        if named.is_empty() {
            wrong.push(format!("{label} names nothing"));
        }
        let missing = named.iter().filter_map(missing);
        wrong.extend(missing.map(|what| format!("{label}: {what}")));
    }
    assert!(wrong.is_empty(), "{page}: {wrong:#?}");
}

#[test]
fn every_edge_case_is_there_and_what_it_names_exists() {
    assert_complete("docs/edge-cases.md", (1..=CASES).map(|number| number.to_string()));
}

#[test]
fn an_edge_case_is_shown_by_tests_and_recorded_exchanges() {
    for entry in read("docs/edge-cases.md") {
        let only_a_file = entry.named.iter().find(|named| matches!(named, Named::File(_)));
        assert_eq!(only_a_file, None, "case {}", entry.label);
    }
}

#[test]
fn every_finding_is_there_and_what_it_names_exists() {
    let labels = FINDINGS
        .iter()
        .flat_map(|(part, count)| (1..=*count).map(move |number| format!("{part}{number}")));
    assert_complete("docs/findings.md", labels);
}

#[test]
fn every_threat_is_there_and_what_it_names_exists() {
    assert_complete(
        "docs/security.md",
        (1..=THREATS).map(|number| format!("T{number}")),
    );
}

/// A recorded exchange that says which edge case it is of stands in that case.
#[test]
fn a_recorded_exchange_stands_in_the_edge_cases_that_it_names() {
    let entries = read("docs/edge-cases.md");
    let mut wrong = Vec::new();
    for vendor in ["sixmap", "sixclicks", "checkmarxsca", "mapiq", "picus"] {
        for file in fs::read_dir(root().join("tests/fixtures").join(vendor)).unwrap() {
            let path = file.unwrap().path();
            let exchange: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let name = format!("{vendor}/{}", path.file_stem().unwrap().to_string_lossy());
            for number in cases_named_in(exchange["about"].as_str().unwrap()) {
                let stands = entries.iter().any(|entry| {
                    entry.label == number.to_string() && entry.named.contains(&Named::Exchange(name.clone()))
                });
                if !stands {
                    wrong.push(format!(
                        "{name} is of edge case {number} and does not stand there"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The numbers behind "Edge case" or "Edge cases".
fn cases_named_in(about: &str) -> BTreeSet<usize> {
    let Some((_, rest)) = about.split_once("Edge case") else {
        return BTreeSet::new();
    };
    let rest = rest.strip_prefix('s').unwrap_or(rest);
    let list = rest.split([':', '.']).next().unwrap_or_default();
    list.split([' ', ','])
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[test]
fn an_entry_is_read_as_it_is_written() {
    let page = "# Cases\n\n- no entry\n\n## Group\n\n### 7. A case\n\nText.\n\n- What is done.\n\nShown by:\n\n\
                - `a.rs`: `one`\n- `a.rs`: `two::of_it`\n- recorded: `v/x`\n- `b.toml`\n\n## After\n\n- no entry\n";
    let test = |function: &str, case: Option<&str>| Named::Test {
        file: "a.rs".to_owned(),
        function: function.to_owned(),
        case: case.map(str::to_owned),
    };
    let expected = Entry {
        label: "7".to_owned(),
        text: "A caseText.- What is done.".to_owned(),
        named: vec![
            test("one", None),
            test("two", Some("of_it")),
            Named::Exchange("v/x".to_owned()),
            Named::File("b.toml".to_owned()),
        ],
    };
    assert_eq!(entries(page), [expected]);
}

#[test]
fn the_edge_cases_of_a_recorded_exchange_are_read_from_its_text() {
    assert_eq!(
        cases_named_in("Edge cases 17 and 25: null."),
        BTreeSet::from([17, 25])
    );
    assert_eq!(cases_named_in("Plain."), BTreeSet::new());
}

#[test]
fn what_is_no_test_is_found_out() {
    let source = "#[test]\nfn a() {\n}\n\nfn helper() {\n}\n\n#[rstest]\n#[case::x(1)]\nfn b(#[case] n: u8) {\n}\n\n\
                  mod tests {\n    #[test]\n    fn d() {\n    }\n\n    fn other() {\n    }\n}\n";
    assert!(attributes(source, "a").unwrap().contains("#[test]"));
    for helper in ["helper", "other"] {
        assert!(!attributes(source, helper).unwrap().contains("#["));
    }
    assert!(attributes(source, "d").unwrap().contains("#[test]"));
    assert!(attributes(source, "b").unwrap().contains("#[case::x("));
    assert_eq!(attributes(source, "c"), None);
}
