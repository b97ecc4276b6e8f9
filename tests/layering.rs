//! Who may use whom, and what stays out of the modules that decide: the dependency rules of `src/lib.rs`.
//!
//! It reads the sources as tokens, without comments, text literals and test code, and looks at every path in them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What each module may use of ours. `main.rs` and `lib.rs` are not in it: the one puts everything together, the other
/// only names the modules.
const MAY_USE: [(&str, &[&str]); 21] = [
    ("api", &[]),
    ("arguments", &["telemetry", "providers"]),
    ("clock", &[]),
    ("controller", &["*"]),
    ("election", &["clock", "error_text", "sync", "text"]),
    ("error_text", &[]),
    ("failure", &["text"]),
    ("fingerprint", &["token", "providers", "inputs"]),
    (
        "grants",
        &[
            "providers",
            "policy",
            "http",
            "clock",
            "election",
            "fingerprint",
            "inputs",
            "token",
            "failure",
            "api",
        ],
    ),
    (
        "http",
        &["providers", "token", "failure", "clock", "sync", "times"],
    ),
    ("inputs", &[]),
    ("metrics", &["failure", "providers", "sync"]),
    ("policy", &["token", "failure", "inputs", "api"]),
    ("server", &["metrics", "sync"]),
    ("sync", &[]),
    ("telemetry", &[]),
    ("template", &["token", "text"]),
    ("text", &[]),
    ("times", &[]),
    ("token", &[]),
    ("providers", &["token", "failure", "times"]),
];

/// Modules without I/O, clock, tasks and Kubernetes client: what goes in decides what comes out.
const PURE: [&str; 9] = [
    "api",
    "failure",
    "inputs",
    "policy",
    "template",
    "text",
    "times",
    "token",
    "providers",
];

/// Crates and parts of std that pure modules do not touch.
const IMPURE: [&[&str]; 19] = [
    &["reqwest"],
    &["tokio"],
    &["hyper"],
    &["hyper_util"],
    &["axum"],
    &["tower"],
    &["rustls"],
    &["futures"],
    &["std", "env"],
    &["std", "fs"],
    &["io", "stdin"],
    &["io", "stdout"],
    &["io", "stderr"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["Timestamp", "now"],
    &["Zoned", "now"],
    &["kube_client"],
];

/// What pure modules may use of the Kubernetes crates: types and derives, no client and no runtime.
const KUBERNETES: [(&str, &[&str]); 5] = [
    ("api", &["kube", "CustomResource"]),
    ("api", &["kube", "CustomResourceExt"]),
    ("api", &["kube", "KubeSchema"]),
    ("api", &["k8s_openapi"]),
    (
        "policy",
        &["k8s_openapi", "apimachinery", "pkg", "apis", "meta", "v1"],
    ),
];

#[test]
fn every_module_uses_only_what_it_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    assert!(files.len() > 50, "only {} files found", files.len());
    let offences: Vec<_> = files
        .iter()
        .flat_map(|(path, text)| offences(path, text))
        .collect();
    assert!(
        offences.is_empty(),
        "\n{}\nsee the module's documentation (\"May use\") and src/lib.rs\n",
        offences.join("\n")
    );
    let seen: BTreeSet<_> = files.keys().filter_map(|path| module_of(path)).collect();
    let listed: BTreeSet<_> = MAY_USE.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(seen, listed, "modules of src/, and the table of this test");
}

/// The documentation is where people look the rules up, so it must say the same.
#[test]
fn the_documentation_of_a_module_says_what_it_may_use() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (module, allowed) in MAY_USE {
        if allowed == ["*"] || allowed.is_empty() {
            continue;
        }
        let text = fs::read_to_string(root.join(module).join("mod.rs"))
            .or_else(|_| fs::read_to_string(root.join(format!("{module}.rs"))))
            .unwrap();
        let documentation: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .collect::<Vec<_>>()
            .join(" ");
        let sentence = documentation
            .split("May use")
            .nth(1)
            .unwrap_or_else(|| panic!("{module} does not say what it may use"));
        let sentence = sentence.split_once(". ").map_or(sentence, |(first, _)| first);
        let said: BTreeSet<_> = sentence.split('`').skip(1).step_by(2).collect();
        assert_eq!(said, allowed.iter().copied().collect(), "{module}: {sentence}");
    }
}

fn sources(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

/// The top module that a file (`policy/status.rs`) belongs to; none for `main.rs`, `lib.rs` and further programs.
fn module_of(path: &str) -> Option<String> {
    let first = path.split('/').next()?.trim_end_matches(".rs");
    (!matches!(first, "main" | "lib" | "bin")).then(|| first.to_owned())
}

/// The lines of a file that use what its module may not.
fn offences(path: &str, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else {
        return Vec::new();
    };
    if path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let allowed = MAY_USE
        .iter()
        .find(|(name, _)| *name == module)
        .map_or(&[] as &[&str], |(_, allowed)| *allowed);
    let pure = PURE.contains(&module.as_str());
    let tokens = without_tests(&tokens(text));
    let mut found = BTreeSet::new();
    for (line, path_used) in paths(&tokens) {
        let used: Vec<&str> = path_used.iter().map(String::as_str).collect();
        if let Some(other) = ours(path, &used)
            && other != module
            && allowed != ["*"]
            && !allowed.contains(&other.as_str())
        {
            found.insert((line, format!("`{module}` may not use `{other}`")));
        }
        if pure && let Some(what) = impure(&module, &used) {
            found.insert((line, format!("`{module}` is pure and may not use `{what}`")));
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    found
        .into_iter()
        .map(|(line, why)| format!("src/{path}:{line}: {why}: {}", lines[line - 1].trim()))
        .collect()
}

/// The top module of ours that a path in `file` leads to.
fn ours(file: &str, path: &[&str]) -> Option<String> {
    let mut parts = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/');
    let depth = parts.by_ref().count();
    let supers = path.iter().take_while(|part| **part == "super").count();
    let next = match *path.first()? {
        "crate" => path.get(1),
        "super" if supers >= depth => path.get(supers),
        _ => return None,
    };
    next.map(|name| (*name).to_owned())
}

/// What of a path does not belong into a pure module.
fn impure(module: &str, path: &[&str]) -> Option<String> {
    if path == ["async"] || path == ["await"] {
        return Some(path[0].to_owned());
    }
    if path.iter().any(|part| matches!(*part, "SystemTime" | "Instant")) {
        return Some(path.join("::"));
    }
    let contains = |parts: &[&str]| path.windows(parts.len()).any(|window| window == parts);
    if IMPURE.iter().any(|parts| {
        if parts.len() == 1 {
            path.first() == parts.first()
        } else {
            contains(parts)
        }
    }) {
        return Some(path.join("::"));
    }
    if path.len() > 1 && matches!(path[0], "kube" | "k8s_openapi" | "kube_runtime") {
        let is_allowed = KUBERNETES
            .iter()
            .any(|(name, parts)| *name == module && path.starts_with(parts));
        return (!is_allowed).then(|| path.join("::"));
    }
    None
}

/// A word or a sign, and its line.
type Token = (usize, String);

/// Words and signs of a source without comments, text and character literals; `::` is one sign.
fn tokens(text: &str) -> Vec<Token> {
    let bytes: Vec<char> = text.chars().collect();
    let at = |index: usize| bytes.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut index, mut line) = (0, 1);
    while index < bytes.len() {
        let character = at(index);
        let start = index;
        match character {
            '\n' => index += 1,
            '/' if at(index + 1) == '/' => {
                while index < bytes.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                index += 2;
                while index < bytes.len() && !(at(index) == '*' && at(index + 1) == '/') {
                    index += 1;
                }
                index += 2;
            }
            '"' => index = after_text(&bytes, index),
            'r' | 'b' | 'c' if literal_hashes(&bytes, index).is_some() => {
                let (quote, hashes) = literal_hashes(&bytes, index).unwrap();
                index = if hashes == 0 && at(index) != 'r' && at(quote - 1) != 'r' {
                    after_text(&bytes, quote)
                } else {
                    after_raw_text(&bytes, quote, hashes)
                };
            }
            // A character, unless it is a lifetime.
            '\'' if at(index + 1) == '\\' => {
                index += 3;
                while index < bytes.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            '\'' if at(index + 2) == '\'' => index += 3,
            ':' if at(index + 1) == ':' => {
                tokens.push((line, "::".to_owned()));
                index += 2;
            }
            _ if character.is_alphanumeric() || character == '_' => {
                while at(index).is_alphanumeric() || at(index) == '_' {
                    index += 1;
                }
                tokens.push((line, bytes[start..index].iter().collect()));
            }
            _ => {
                if !character.is_whitespace() {
                    tokens.push((line, character.to_string()));
                }
                index += 1;
            }
        }
        let end = index.min(bytes.len());
        line += bytes[start..end].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// For the prefix of a literal (`r#"`, `b"`, `br"`): where its quote is, and how many `#` there are.
fn literal_hashes(text: &[char], mut index: usize) -> Option<(usize, usize)> {
    let mut prefix = 0;
    while matches!(text.get(index)?, 'r' | 'b' | 'c') && prefix < 2 {
        index += 1;
        prefix += 1;
    }
    let start = index;
    while *text.get(index)? == '#' {
        index += 1;
    }
    (*text.get(index)? == '"').then_some((index, index - start))
}

fn after_text(text: &[char], quote: usize) -> usize {
    let mut index = quote + 1;
    while index < text.len() && text[index] != '"' {
        index += if text[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

fn after_raw_text(text: &[char], quote: usize, hashes: usize) -> usize {
    let mut index = quote + 1;
    while index < text.len() {
        if text[index] == '"' && text[index + 1..].iter().take(hashes).all(|c| *c == '#') {
            return index + 1 + hashes;
        }
        index += 1;
    }
    index
}

/// Drops each item behind `#[cfg(test)]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let marks = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let is_mark = marks
            .iter()
            .enumerate()
            .all(|(offset, mark)| tokens.get(index + offset).is_some_and(|token| token.1 == *mark));
        if !is_mark {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        }
        let mut depth = 0;
        while index < tokens.len() {
            match tokens[index].1.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && matches!(tokens[index].1.as_str(), ";" | "}");
            index += 1;
            if ends {
                break;
            }
        }
    }
    kept
}

/// All paths, with groups (`a::{b, c::d}`) written out; words alone are paths of one part.
fn paths(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        if is_word(&tokens[index].1) {
            index = path(tokens, index, &[], &mut found);
        } else {
            index += 1;
        }
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_') || token == "*"
}

fn path(
    tokens: &[Token],
    mut index: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.1.as_str());
    let mut parts = prefix.to_vec();
    let line = tokens[index].0;
    loop {
        parts.push(text(index).to_owned());
        index += 1;
        if text(index) != "::" {
            break;
        }
        index += 1;
        if text(index) == "{" {
            index += 1;
            while !matches!(text(index), "}" | "") {
                if is_word(text(index)) {
                    index = path(tokens, index, &parts, found);
                } else {
                    index += 1;
                }
            }
            return index + 1;
        }
        if !is_word(text(index)) {
            break;
        }
    }
    found.push((line, parts));
    index
}

/// The table above is worth nothing when the reader of sources misses what it should see.
mod the_check_can_fail {
    use super::offences;

    #[track_caller]
    fn refused(path: &str, text: &str, line: usize, what: &str) {
        let found = offences(path, text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(&format!("src/{path}:{line}: ")) && found[0].contains(what),
            "{found:?}"
        );
    }

    #[test]
    fn on_an_import_of_a_module_that_may_not_be_used() {
        refused(
            "providers/picus.rs",
            "\nuse crate::policy::decide;\n",
            2,
            "may not use `policy`",
        );
    }

    #[test]
    fn on_one_in_a_group() {
        refused(
            "policy/decide.rs",
            "use crate::{\n    token::AccessToken,\n    grants::{Grants, Ask as A},\n};",
            3,
            "`grants`",
        );
    }

    #[test]
    fn on_a_path_in_the_middle_of_code() {
        refused(
            "api/crd.rs",
            "fn f() -> u8 { crate::policy::f('{') }",
            1,
            "`policy`",
        );
    }

    #[test]
    fn on_a_path_by_way_of_super() {
        refused(
            "policy/backoff.rs",
            "use super::super::http::Transport;",
            1,
            "`http`",
        );
        refused("template.rs", "use super::providers::Vendor;", 1, "`providers`");
        assert!(offences("policy/backoff.rs", "use super::status::x;").is_empty());
    }

    #[test]
    fn on_an_import_of_everything() {
        refused("providers/mod.rs", "use crate::*;", 1, "`*`");
    }

    #[test]
    fn on_clocks_tasks_and_clients_in_pure_modules() {
        refused(
            "policy/a.rs",
            "let now = jiff::Timestamp::now();",
            1,
            "Timestamp::now",
        );
        refused("policy/a.rs", "use std::time::{Duration, Instant};", 1, "Instant");
        refused("providers/a.rs", "let x = SystemTime::now();", 1, "SystemTime");
        refused("providers/a.rs", "pub async fn f() {}", 1, "async");
        refused("token.rs", "use tokio::sync::Mutex;", 1, "tokio");
        refused("failure.rs", "use std::{fmt, fs};", 1, "std::fs");
        refused(
            "api/a.rs",
            "use kube::{CustomResource, Client};",
            1,
            "kube::Client",
        );
        refused(
            "policy/a.rs",
            "use k8s_openapi::api::core::v1::Secret;",
            1,
            "Secret",
        );
        refused(
            "providers/a.rs",
            "fn f(client: &reqwest::Client) {}",
            1,
            "reqwest",
        );
    }

    #[test]
    fn and_passes_over_comments_texts_and_tests() {
        let text = r####"
            //! crate::controller
            /* tokio::spawn */
            const A: &str = "crate::http \" async";
            const B: &str = r#"crate::http "quoted" tokio"#;
            const C: &[u8] = b"async";
            fn f<'a>(x: &'a str) -> char { '"' }
            #[cfg(test)]
            mod tests { use crate::controller; mod inner { async fn f() {} } }
            #[cfg(test)]
            use tokio::time;
        "####;
        assert_eq!(offences("providers/a.rs", text), Vec::<String>::new());
        refused(
            "providers/a.rs",
            &format!("{text}\nuse crate::http::X;"),
            13,
            "`http`",
        );
    }
}
