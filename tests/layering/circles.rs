//! No import circle, between files and between modules, in any crate of the workspace.
//!
//! A file imports the file that defines what it names. A name that a file only re-exports leads on to its definition.
//! The file of a module is no import of the modules below it: they are parts of the module, and share what it defines.
//! `mod name;` is no import, and neither is code behind `#[cfg(test)]`. Between modules, everything below a module
//! counts as the module: of two modules with one parent, only one may import from the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Tree, roots, shown};

/// Who imports whom.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_files_import_each_other_in_a_circle() {
    refuse(files);
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    refuse(modules);
}

fn refuse(graph: impl Fn(&str, &Tree) -> Vec<Graph>) {
    let roots = roots();
    assert!(roots.len() > 10, "only {} crates found", roots.len());
    let found: BTreeSet<Vec<String>> = roots
        .iter()
        .flat_map(|root| graph(&shown(root), &Tree::of(root)))
        .flat_map(|graph| circles(&graph))
        .collect();
    assert!(
        found.is_empty(),
        "import circles:\n{}",
        found
            .iter()
            .map(|circle| format!("  {}\n", circle.join(", ")))
            .collect::<String>()
    );
}

/// All imports of a crate: the module that imports, and the module that defines what is imported, without those from
/// the modules around it.
fn imports(tree: &Tree) -> Vec<(Vec<String>, Vec<String>)> {
    let mut imports = Vec::new();
    for (path, (_, module)) in &tree.modules {
        // A name alone is a module's own, or was imported.
        for used in module.uses.iter().filter(|used| used.parts.len() > 1) {
            if let Some(target) = tree.definition(path, &used.parts)
                && !path.starts_with(&target)
            {
                imports.push((path.clone(), target));
            }
        }
    }
    imports
}

/// The files of a crate.
fn files(_: &str, tree: &Tree) -> Vec<Graph> {
    let mut graph = Graph::new();
    for (from, to) in imports(tree) {
        let (from, to) = (&tree.modules[&from].0, &tree.modules[&to].0);
        if from != to {
            graph.entry(from.clone()).or_default().insert(to.clone());
        }
    }
    vec![graph]
}

/// The children of each module of a crate, everything below a child counted as the child.
fn modules(root: &str, tree: &Tree) -> Vec<Graph> {
    let mut graphs: BTreeMap<Vec<String>, Graph> = BTreeMap::new();
    for (from, to) in imports(tree) {
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        if common < from.len() && common < to.len() {
            let name = |path: &[String]| format!("{root}: {}", path[..=common].join("::"));
            let graph = graphs.entry(from[..common].to_vec()).or_default();
            graph.entry(name(&from)).or_default().insert(name(&to));
        }
    }
    graphs.into_values().collect()
}

/// The largest sets in which each member reaches each other one.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|from| (from, reachable(graph, from))).collect();
    let mut found = BTreeSet::new();
    for (from, to) in &reached {
        if to.contains(*from) {
            let circle: BTreeSet<String> = to
                .iter()
                .filter(|other| reached.get(*other).is_some_and(|back| back.contains(*from)))
                .map(|other| (*other).clone())
                .collect();
            found.insert(circle);
        }
    }
    found
        .into_iter()
        .map(|circle| circle.into_iter().collect())
        .collect()
}

fn reachable<'a>(graph: &'a Graph, from: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = graph.get(from).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(graph.get(next).into_iter().flatten());
        }
    }
    reached
}

mod the_check_can_fail {
    use super::{Tree, circles, files, modules};

    fn tree(a: &str, b: &str) -> Tree {
        let root = "mod a;\nmod b;\npub use a::A;\npub use b::inner::B;\n";
        let a = format!("{a}\npub struct A;");
        let b = format!("pub mod inner;\n{b}");
        Tree::of_texts(&[
            (&[], "lib.rs", root),
            (&["a"], "a.rs", &a),
            (&["b"], "b/mod.rs", &b),
            (&["b", "inner"], "b/inner.rs", "pub struct B;"),
        ])
    }

    #[track_caller]
    fn files_are(a: &str, b: &str, expected: &[&[&str]]) {
        let graphs = files("lib.rs", &tree(a, b));
        let found: Vec<_> = graphs.iter().flat_map(circles).collect();
        assert_eq!(found, expected, "{a} / {b}");
    }

    const CIRCLE: [&[&str]; 1] = [&["a.rs", "b/mod.rs"]];

    #[test]
    fn on_two_files_that_import_each_other() {
        let b = "use super::a::A; pub struct C;";
        files_are("use crate::b::C;", b, &CIRCLE);
        files_are("use super::b::{C as D};", b, &CIRCLE);
        files_are("use crate::b; fn f(_: b::C) {}", b, &CIRCLE);
        files_are("fn f() { crate::b::C; }", b, &CIRCLE);
        files_are("fn f() { vec![crate::b::C, 1]; }", b, &CIRCLE);
        files_are("use crate::b::*;", b, &CIRCLE);
        files_are("fn f() { use crate::b::{self, C}; }", b, &CIRCLE);
        files_are("mod inside { fn f(_: super::super::b::C) {} }", b, &CIRCLE);
    }

    #[test]
    fn on_a_name_that_a_parent_re_exports() {
        files_are("use crate::b::C;", "use crate::A; pub struct C;", &CIRCLE);
        files_are("use crate::B;", "use crate::A;", &[]);
    }

    #[test]
    fn but_not_on_code_of_tests_or_a_visibility() {
        let b = "use super::a::A; pub struct C;";
        files_are("#[cfg(test)] mod tests { use crate::b::C; }", b, &[]);
        files_are("#[cfg(test)] use crate::b::C;", b, &[]);
        files_are("pub(in crate::b) struct D;", b, &[]);
        files_are(
            "struct D; impl D { #[cfg(test)] fn f(_: crate::b::C) {} }",
            b,
            &[],
        );
        files_are("// crate::b::C\nconst D: &str = \"crate::b::C\";", b, &[]);
    }

    #[test]
    fn on_two_modules_whose_files_make_no_circle() {
        let tree = tree("use crate::b::inner::B;", "use crate::a::A;");
        assert_eq!(files("lib.rs", &tree).iter().flat_map(circles).count(), 0);
        let found: Vec<_> = modules("lib.rs", &tree).iter().flat_map(circles).collect();
        assert_eq!(found, [["lib.rs: a", "lib.rs: b"]]);
    }
}
