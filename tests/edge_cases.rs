//! `docs/edge-cases.md` has a row for each of the 42 edge cases, and what it names exists.

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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a row names.
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
}

/// The numbers of the rows, in their order, with what each names.
fn rows(text: &str) -> Vec<(usize, Vec<Named>)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| {
            let cells: Vec<_> = line.trim_end_matches(" |").split(" | ").collect();
            let [number, case, does, shown] = cells[..] else {
                panic!("not four cells: {line}");
            };
            let number = number.parse().ok()?;
            assert!(case.len() > 10 && does.len() > 10, "row {number} says nothing");
            Some((number, named(number, shown)))
        })
        .collect()
}

fn named(number: usize, shown: &str) -> Vec<Named> {
    let mut file: Option<&str> = None;
    let mut found = Vec::new();
    for part in shown.split("; ") {
        let spans = part.split('`').skip(1).step_by(2);
        for span in spans {
            if span.ends_with(".rs") {
                file = Some(span);
            } else if span.contains('/') {
                found.push(Named::Exchange(span.to_owned()));
            } else {
                let (function, case) = match span.split_once("::") {
                    Some((function, case)) => (function, Some(case.to_owned())),
                    None => (span, None),
                };
                let file = file.unwrap_or_else(|| panic!("row {number}: no file is named before {function}"));
                found.push(Named::Test {
                    file: file.to_owned(),
                    function: function.to_owned(),
                    case,
                });
            }
        }
    }
    found
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

#[test]
fn every_edge_case_has_a_row_and_what_it_names_exists() {
    let text = fs::read_to_string(root().join("docs/edge-cases.md")).unwrap();
    let rows = rows(&text);
    let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=CASES).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (number, named) in &rows {
        if named.is_empty() {
            wrong.push(format!("row {number} names nothing"));
        }
        let missing = named.iter().filter_map(missing);
        wrong.extend(missing.map(|what| format!("row {number}: {what}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A recorded exchange that says which edge case it is of stands in that row.
#[test]
fn a_recorded_exchange_stands_in_the_rows_of_the_edge_cases_that_it_names() {
    let text = fs::read_to_string(root().join("docs/edge-cases.md")).unwrap();
    let rows = rows(&text);
    let mut wrong = Vec::new();
    for vendor in ["sixmap", "sixclicks", "checkmarxsca", "mapiq", "picus"] {
        for entry in fs::read_dir(root().join("tests/fixtures").join(vendor)).unwrap() {
            let path = entry.unwrap().path();
            let exchange: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let name = format!("{vendor}/{}", path.file_stem().unwrap().to_string_lossy());
            for number in cases_named_in(exchange["about"].as_str().unwrap()) {
                let stands = rows
                    .iter()
                    .any(|(row, named)| *row == number && named.contains(&Named::Exchange(name.clone())));
                if !stands {
                    wrong.push(format!("{name} is of edge case {number} and not in its row"));
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
fn the_table_is_read_as_it_is_written() {
    let rows = rows(
        "| 7 | a case of some kind | what is then done | `a.rs`: `one`, `two::of_it`; recorded: `v/x` |",
    );
    let test = |function: &str, case: Option<&str>| Named::Test {
        file: "a.rs".to_owned(),
        function: function.to_owned(),
        case: case.map(str::to_owned),
    };
    let expected = vec![
        test("one", None),
        test("two", Some("of_it")),
        Named::Exchange("v/x".to_owned()),
    ];
    assert_eq!(rows, [(7, expected)]);
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
