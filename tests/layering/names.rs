//! A test's name is one sentence that fits into a line of the summary.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::tree::{entries, packages, shown};

const MOST: usize = 80;

/// Longer names that are allowed for now. Must be empty.
const KNOWN_LONG: [&str; 11] = [
    "a_success_forgets_and_a_clock_that_was_set_back_holds_for_a_quarter_of_an_hour_at_most",
    "failures_in_a_row_are_counted_from_what_a_status_remembers_and_a_success_clears_them",
    "a_refresh_request_is_completed_for_each_object_by_the_attempt_that_ends_whatever_comes_of_it",
    "two_tokens_that_were_issued_in_one_second_because_the_clock_was_set_back_are_told_apart",
    "a_pause_ends_when_the_vendor_said_though_the_clock_is_set_back_and_no_later_when_it_is_set_ahead",
    "a_pause_from_before_a_restart_is_told_for_metrics_and_one_that_nobody_met_is_not_believed",
    "a_pause_that_another_process_met_holds_for_an_endpoint_that_this_one_asked_before",
    "a_vendor_in_use_without_a_token_needs_nothing_and_one_that_is_not_in_use_is_not_there",
    "a_token_restored_from_credentials_that_rotated_twice_shows_no_failure_of_those_between",
    "no_step_of_the_clock_and_no_sleep_leaves_an_expired_token_for_longer_than_a_look_takes",
    "beside_an_operator_and_in_a_namespace_of_others_the_demo_refuses_and_touches_nothing",
];

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
                .filter(|name| name.len() > MOST && !KNOWN_LONG.contains(&name.as_str()))
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

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
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
