//! Who may use whom, and what stays out of the modules that decide: the dependency rules of `src/lib.rs`.

use std::collections::BTreeSet;
use std::fs;

use crate::source::Module;
use crate::tree::{Tree, workspace};

/// What each module may use of ours. `main.rs` and `lib.rs` are not in it: the one puts everything together, the other
/// only names the modules.
const MAY_USE: [(&str, &[&str]); 22] = [
    ("api", &[]),
    ("arguments", &["telemetry", "providers"]),
    ("clock", &["sync"]),
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
            "sync",
            "times",
            "api",
        ],
    ),
    (
        "http",
        &["providers", "token", "failure", "clock", "sync", "times"],
    ),
    ("inputs", &[]),
    ("metrics", &["failure", "providers", "sync"]),
    (
        "policy",
        &["token", "failure", "inputs", "api", "seal", "text", "times"],
    ),
    ("seal", &["api", "fingerprint", "inputs", "times", "token"]),
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
const PURE: [&str; 10] = [
    "api",
    "failure",
    "inputs",
    "policy",
    "seal",
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
    let tree = Tree::of(&workspace().join("src/lib.rs"));
    let files: BTreeSet<_> = tree.modules.values().map(|(file, _)| file).collect();
    assert!(files.len() > 50, "only {} files found", files.len());
    let offences = offences(&tree);
    assert!(
        offences.is_empty(),
        "\n{}\nsee the module's documentation (\"May use\") and src/lib.rs\n",
        offences.join("\n")
    );
    let seen: BTreeSet<_> = tree.modules.keys().filter_map(|path| path.first()).collect();
    let listed: Vec<_> = MAY_USE.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(
        seen,
        listed.iter().collect(),
        "modules of src/, and the table of this test"
    );
}

/// The documentation is where people look the rules up, so it must say the same.
#[test]
fn the_documentation_of_a_module_says_what_it_may_use() {
    let root = workspace().join("src");
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

/// The uses that their modules may not make, as `FILE:LINE: why`.
fn offences(tree: &Tree) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (path, (file, module)) in &tree.modules {
        if let Some(top) = path.first() {
            for (line, why) in offences_of(tree, top, module) {
                found.insert((file.clone(), line, why));
            }
        }
    }
    found
        .into_iter()
        .map(|(file, line, why)| format!("{file}:{line}: {why}"))
        .collect()
}

/// The offences in `module`, which lies below the top module `top`.
fn offences_of(tree: &Tree, top: &str, module: &Module) -> Vec<(usize, String)> {
    let allowed = MAY_USE
        .iter()
        .find(|(name, _)| *name == top)
        .map_or(&[] as &[&str], |(_, allowed)| *allowed);
    let pure = PURE.contains(&top);
    let mut found = Vec::new();
    for used in &module.uses {
        let parts: Vec<&str> = used.parts.iter().map(String::as_str).collect();
        let absolute = tree.absolute(&module.path, &used.parts);
        if let Some(other) = absolute.as_ref().and_then(|path| path.first())
            && other != top
            && allowed != ["*"]
            && !allowed.contains(&other.as_str())
        {
            found.push((used.line, format!("`{top}` may not use `{other}`")));
        }
        if pure && let Some(what) = impure(top, &parts) {
            found.push((used.line, format!("`{top}` is pure and may not use `{what}`")));
        }
    }
    found
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

/// The table above is worth nothing when the reader of sources misses what it should see.
mod the_check_can_fail {
    use super::offences;
    use crate::tree::Tree;

    /// The offences of a file (`policy/a.rs`) with this text.
    fn found(file: &str, text: &str) -> Vec<String> {
        let path: Vec<&str> = file
            .trim_end_matches(".rs")
            .split('/')
            .filter(|part| *part != "mod")
            .collect();
        offences(&Tree::of_texts(&[(&path, file, text)]))
    }

    #[track_caller]
    fn refused(path: &str, text: &str, line: usize, what: &str) {
        let found = found(path, text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(&format!("{path}:{line}: ")) && found[0].contains(what),
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
        assert!(found("policy/backoff.rs", "use super::status::x;").is_empty());
    }

    #[test]
    fn on_an_import_of_everything() {
        refused("providers/mod.rs", "use crate::*;", 1, "`*`");
    }

    #[test]
    fn on_clocks_tasks_and_clients_in_pure_modules() {
        refused(
            "policy/a.rs",
            "fn f() { let now = jiff::Timestamp::now(); }",
            1,
            "Timestamp::now",
        );
        refused("policy/a.rs", "use std::time::{Duration, Instant};", 1, "Instant");
        refused(
            "providers/a.rs",
            "fn f() { let x = SystemTime::now(); }",
            1,
            "SystemTime",
        );
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
        assert_eq!(found("providers/a.rs", text), Vec::<String>::new());
        refused(
            "providers/a.rs",
            &format!("{text}\nuse crate::http::X;"),
            13,
            "`http`",
        );
    }
}
