//! A test's name is one sentence that fits into a line of the summary.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::tree::{entries, packages, shown};

const MOST: usize = 80;

#[test]
fn no_test_name_is_longer_than_80_characters() {
    let mut files = Vec::new();
    for package in packages() {
        for folder in ["src", "tests", "examples", "benches"] {
            sources(&package.join(folder), &mut files);
        }
    }
    let mut count = 0;
    let mut long = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let names = tests_in(text.parse().unwrap());
        count += names.len();
        long.extend(
            names
                .into_iter()
                .filter(|name| name.len() > MOST)
                .map(|name| format!("{}: {name} ({})", shown(&file), name.len())),
        );
    }
    assert!(count > 300, "only {count} tests found");
    assert!(
        long.is_empty(),
        "longer than {MOST} characters:\n{}",
        long.join("\n")
    );
}

pub(crate) fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in entries(folder) {
        if entry.is_dir() {
            sources(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

/// The names of the functions behind an attribute that makes a test, also within `proptest!`.
fn tests_in(tokens: TokenStream) -> Vec<String> {
    let mut names = Vec::new();
    let (mut is_test, mut names_function) = (false, false);
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                is_test |= makes_a_test(&group.stream());
            }
            TokenTree::Group(group) => {
                names.extend(tests_in(group.stream()));
                is_test &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Ident(ident) => {
                if names_function && is_test {
                    names.push(ident.to_string());
                    is_test = false;
                }
                names_function = ident == "fn";
            }
            _ => {}
        }
    }
    names
}

/// `test`, `tokio::test(…)`, `rstest`.
fn makes_a_test(attribute: &TokenStream) -> bool {
    let mut path = attribute.clone().into_iter().take_while(|token| match token {
        TokenTree::Ident(_) => true,
        TokenTree::Punct(punct) => punct.as_char() == ':',
        _ => false,
    });
    let last = path.by_ref().last();
    last.is_some_and(|last| matches!(last.to_string().as_str(), "test" | "rstest"))
}

#[test]
fn tests_are_found_by_their_attributes() {
    let text = r#"
        #[test] fn a() { let x = [1]; }
        fn helper() {}
        #[tokio::test(flavor = "multi_thread")] async fn b() {}
        #[rstest] #[case(1)] fn c(#[case] x: u8) {}
        mod inner { #[test] fn d() {} }
        proptest! { #[test] fn e(x in 0..1) {} }
        #[cfg(test)] fn helper_too() {}
        #[tokio::main] async fn main() {}
    "#;
    assert_eq!(tests_in(text.parse().unwrap()), ["a", "b", "c", "d", "e"]);
}
