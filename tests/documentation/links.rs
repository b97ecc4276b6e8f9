//! Relative links, anchors and paths of the repository.

use std::path::{Path, PathBuf};

use super::page::{Page, pages, root};

/// Folders by which a path of the repository is told from other text in backticks.
const FOLDERS: [&str; 8] = ["src", "tests", "hack", "tools", "deploy", "docs", "crds", ".ci"];

/// Links that lead nowhere. `read` gives the page at a path from the root.
fn broken_links(page: &Page, exists: impl Fn(&Path) -> bool, read: impl Fn(PathBuf) -> Page) -> Vec<String> {
    let is_broken = |link: &String| {
        if ["https://", "http://", "mailto:"]
            .iter()
            .any(|scheme| link.starts_with(scheme))
        {
            return false;
        }
        let (file, anchor) = match link.split_once('#') {
            Some((file, anchor)) => (file, Some(anchor)),
            None => (link.as_str(), None),
        };
        let target = if file.is_empty() {
            Some(page.path.clone())
        } else {
            page.resolve(file)
        };
        match (target.filter(|target| exists(target)), anchor) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(target), Some(anchor)) => {
                !(target.extension().is_some_and(|extension| extension == "md")
                    && read(target).anchors().contains(anchor))
            }
        }
    };
    page.links().into_iter().filter(is_broken).collect()
}

/// The path of the repository that a text in backticks begins with, if it is one. A pattern (`tests/<vendor>/*.json`) is
/// none.
fn repository_path(code: &str) -> Option<&str> {
    let word = code.split([' ', ':']).next()?;
    let (folder, _) = word.split_once('/')?;
    let is_plain = word
        .chars()
        .all(|character| character.is_ascii_alphanumeric() || "._-/".contains(character));
    (FOLDERS.contains(&folder) && is_plain).then_some(word)
}

fn is_there(path: &Path) -> bool {
    root().join(path).exists()
}

fn none_wrong(wrong: impl Fn(&Page) -> Vec<String>) {
    let wrong: Vec<_> = pages()
        .iter()
        .flat_map(|page| {
            let path = page.path.display().to_string();
            wrong(page).into_iter().map(move |what| format!("{path}: {what}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_relative_link_leads_to_a_file_and_its_heading() {
    none_wrong(|page| broken_links(page, is_there, Page::read));
}

#[test]
fn every_path_of_the_repository_that_is_named_exists() {
    none_wrong(|page| {
        page.code_spans()
            .iter()
            .filter_map(|code| repository_path(code))
            .filter(|path| !is_there(Path::new(path)))
            .map(str::to_owned)
            .collect()
    });
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = |text: &str| Page {
        path: "docs/a.md".into(),
        text: text.to_owned(),
    };
    let text = "[1](b.md) [2](c.md) [3](#here) [4](#there) [5](b.md#here) [6](b.md#there) [7](../d#here) \
                [8](https://example.com/x) `[9](c.md)`\n\n# Here\n";
    let exists = |path: &Path| {
        ["docs/a.md", "docs/b.md", "d"]
            .iter()
            .any(|there| path == Path::new(there))
    };
    let broken = broken_links(&page(text), exists, |_| page("# Here\n"));
    assert_eq!(broken, ["c.md", "#there", "b.md#there", "../d#here"]);
}

#[test]
fn a_path_of_the_repository_is_told_from_other_text() {
    for (code, path) in [
        ("src/policy/decide.rs", Some("src/policy/decide.rs")),
        ("hack/demo --help", Some("hack/demo")),
        ("tests/server.rs: a_test", Some("tests/server.rs")),
        ("deploy/", Some("deploy/")),
        ("tests/fixtures/<vendor>/*.json", None),
        ("src/…", None),
        ("vendortokens/status", None),
        ("srcs", None),
    ] {
        assert_eq!(repository_path(code), path, "{code}");
    }
}
