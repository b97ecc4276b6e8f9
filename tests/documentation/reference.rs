//! The tables of `docs/reference.md` against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use vendor_token_operator::api::names::{Reason, condition};

use super::page::{Page, root};

/// The rows below a heading of the reference.
fn rows(heading: &str) -> Vec<Vec<String>> {
    Page::read("docs/reference.md").table(heading)
}

/// The first cells of these rows.
fn names(heading: &str) -> Vec<String> {
    rows(heading)
        .into_iter()
        .map(|mut row| row.swap_remove(0))
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

/// The text literals of a source file that begin with `prefix`, up to its tests.
fn literals(path: &str, prefix: &str) -> BTreeSet<String> {
    let source = read(path);
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    code.split('"')
        .skip(1)
        .step_by(2)
        .filter(|literal| literal.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn reasons_are_those_of_the_code_in_its_order() {
    let expected = Reason::ALL.map(|reason| reason.as_str().to_owned());
    assert_eq!(names("Reasons of Ready"), expected);
}

#[test]
fn conditions_are_those_of_the_code_in_its_order() {
    assert_eq!(names("Conditions"), condition::ALL);
}

#[test]
fn labels_and_annotations_are_those_of_the_code() {
    let mut expected = literals("src/api/names.rs", "vendortoken.io/");
    expected.extend(literals("src/api/names.rs", "app.kubernetes.io/"));
    let listed: BTreeSet<_> = names("Annotations and labels").into_iter().collect();
    assert_eq!(listed, expected);
}

/// Flag, its environment variable, and its default where that is a fixed value: as `--help` prints them.
fn flags_of_help() -> Vec<(String, String, Option<String>)> {
    let mut snapshots = fs::read_dir(root().join("src/arguments/snapshots")).unwrap();
    let help = fs::read_to_string(snapshots.next().unwrap().unwrap().path()).unwrap();
    let (_, options) = help.split_once("\nOptions:\n").unwrap();
    let mut flags: Vec<(String, String, Option<String>)> = Vec::new();
    for line in options.lines().map(str::trim) {
        if let Some(flag) = line.strip_prefix("--") {
            let name = flag.split([' ', '[', '=']).next().unwrap_or_default();
            flags.push((format!("--{name}"), String::new(), None));
        } else if let Some((_, variable, default)) = flags.last_mut() {
            let value = |of: &str| line.strip_prefix(of)?.strip_suffix(']').map(str::to_owned);
            if let Some(named) = value("[env: ") {
                *variable = named;
            }
            *default = default.take().or_else(|| value("[default: "));
        }
    }
    flags
}

#[test]
fn flags_are_those_of_help_with_their_defaults() {
    let help = flags_of_help();
    let rows = rows("Flags");
    let listed: Vec<_> = rows
        .iter()
        .map(|row| row[0].split([' ', '[', '=']).next().unwrap_or_default())
        .collect();
    let expected: Vec<_> = help.iter().map(|(flag, ..)| flag.as_str()).collect();
    assert_eq!(listed, expected);
    for ((flag, variable, default), row) in help.iter().zip(&rows) {
        let by_rule = flag.trim_start_matches("--").replace('-', "_").to_uppercase();
        assert_eq!(*variable, format!("VENDOR_TOKEN_OPERATOR_{by_rule}"));
        if let Some(default) = default {
            assert_eq!(row[1], *default, "{flag}");
        }
    }
}

/// Each metric has a name of the code, with the suffix of its kind and unit.
#[test]
fn metrics_are_those_of_the_code() {
    let mut registered = BTreeSet::new();
    for file in ["registered", "objects", "throttles", "process"] {
        for prefix in ["vendortoken_", "process_"] {
            registered.extend(literals(&format!("src/metrics/{file}.rs"), prefix));
        }
    }
    let suffixes = ["_seconds_total", "_total", "_seconds", "_bytes", "_info"];
    let without_suffix = |listed: &String| {
        let stems = suffixes.iter().filter_map(|suffix| listed.strip_suffix(suffix));
        stems
            .chain([listed.as_str()])
            .find(|stem| registered.contains(*stem))
            .map_or_else(|| format!("{listed} (unknown)"), str::to_owned)
    };
    let listed: BTreeSet<_> = names("Metrics").iter().map(without_suffix).collect();
    assert_eq!(listed, registered);
}

/// Paths of the fields below `schema` that have no fields of their own, with their schemas.
fn leaves<'a>(path: &str, schema: &'a Value, found: &mut BTreeMap<String, &'a Value>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.insert(path.to_owned(), schema);
        return;
    };
    for (name, property) in properties {
        leaves(&format!("{path}.{name}"), property, found);
    }
}

#[test]
fn fields_are_those_of_the_definition_with_their_defaults() {
    let definition: Value = serde_saphyr::from_str(&read("crds/vendortokens.yaml")).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    for (part, heading) in [("spec", "Fields of the spec"), ("status", "Fields of the status")] {
        let mut fields = BTreeMap::new();
        leaves(part, &schema[part], &mut fields);
        let rows: BTreeMap<_, _> = rows(heading)
            .into_iter()
            .map(|row| (row[0].clone(), row))
            .collect();
        assert!(
            rows.keys().eq(fields.keys()),
            "{:#?}\n{:#?}",
            rows.keys(),
            fields.keys()
        );
        for (path, field) in fields {
            let default = match &field["default"] {
                Value::String(text) => text.clone(),
                Value::Bool(value) => value.to_string(),
                _ => continue,
            };
            assert_eq!(rows[&path][1], default, "{path}");
        }
    }
}

/// Resource and verb of each right that the manifest grants.
fn granted(manifest: &str) -> BTreeSet<(String, String)> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&read(manifest)).unwrap();
    let rules = documents
        .iter()
        .filter_map(|document| document["rules"].as_array());
    let texts = |rule: &Value, of: &str| -> Vec<String> {
        let list = rule[of].as_array().unwrap();
        list.iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    };
    let mut granted = BTreeSet::new();
    for rule in rules.flatten() {
        for resource in texts(rule, "resources") {
            let verbs = texts(rule, "verbs");
            granted.extend(verbs.into_iter().map(|verb| (resource.clone(), verb)));
        }
    }
    granted
}

#[test]
fn rights_are_those_of_the_manifests() {
    for (heading, manifest) in [
        (
            "In the namespaces that it serves",
            "deploy/cluster-wide/rbac.yaml",
        ),
        ("In its own namespace", "deploy/operator/role.yaml"),
    ] {
        let listed: BTreeSet<_> = rows(heading)
            .iter()
            .flat_map(|row| row[1].split(", ").map(|verb| (row[0].clone(), verb.to_owned())))
            .collect();
        assert_eq!(listed, granted(manifest), "{heading}");
    }
}
