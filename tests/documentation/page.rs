//! A page of the documentation, read as GitHub reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Markdown file.
#[derive(Debug)]
pub(crate) struct Page {
    /// From the root of the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Page {
    /// Reads the page at `path`, which begins at the root of the repository.
    pub(crate) fn read(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let text = fs::read_to_string(root().join(&path)).expect("the page can be read");
        Self { path, text }
    }

    fn events(&self) -> impl Iterator<Item = Event<'_>> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES)
    }

    /// Targets of links and images.
    pub(crate) fn links(&self) -> Vec<String> {
        self.events()
            .filter_map(|event| match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    Some(dest_url.into_string())
                }
                _ => None,
            })
            .collect()
    }

    /// Texts in backticks.
    pub(crate) fn code_spans(&self) -> Vec<String> {
        self.events()
            .filter_map(|event| match event {
                Event::Code(code) => Some(code.into_string()),
                _ => None,
            })
            .collect()
    }

    /// Contents of the fenced blocks of this language.
    pub(crate) fn blocks(&self, language: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut block: Option<String> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) if &*info == language => {
                    block = Some(String::new());
                }
                Event::Text(text) => {
                    if let Some(block) = &mut block {
                        block.push_str(&text);
                    }
                }
                Event::End(TagEnd::CodeBlock) => blocks.extend(block.take()),
                _ => {}
            }
        }
        blocks
    }

    /// Anchors of the headings.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let mut used = BTreeMap::new();
        self.headings()
            .iter()
            .map(|heading| numbered(anchor(heading), &mut used))
            .collect()
    }

    /// Texts of the headings, without their marks.
    fn headings(&self) -> Vec<String> {
        let mut headings = Vec::new();
        let mut heading: Option<String> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => headings.extend(heading.take()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        headings
    }

    /// The rows of the first table below the heading, without its head; a cell is its text without marks.
    pub(crate) fn table(&self, below: &str) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut heading: Option<String> = None;
        let (mut is_below, mut is_body) = (false, false);
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => is_below |= heading.take().as_deref() == Some(below),
                Event::End(TagEnd::TableHead) => is_body = is_below,
                Event::End(TagEnd::Table) if is_body => return rows,
                Event::Start(Tag::TableRow) if is_body => rows.push(Vec::new()),
                Event::Start(Tag::TableCell) if is_body => rows.last_mut().unwrap().push(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    let cell = rows.last_mut().and_then(|row| row.last_mut());
                    if let Some(part) = heading.as_mut().or(cell) {
                        part.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        panic!("{} has no table below the heading '{below}'", self.path.display())
    }

    /// The file or folder that a relative link of this page leads to, from the root of the repository; nothing where the
    /// link leaves the repository.
    pub(crate) fn resolve(&self, link: &str) -> Option<PathBuf> {
        let mut resolved = self.path.parent().unwrap_or(Path::new("")).to_owned();
        for component in Path::new(link).components() {
            match component {
                Component::Normal(name) => resolved.push(name),
                Component::CurDir => {}
                Component::ParentDir if resolved.pop() => {}
                _ => return None,
            }
        }
        Some(resolved)
    }
}

/// All pages: those at the root, of `docs/`, of the tools and of `deploy/`.
pub(crate) fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(PathBuf::from)
        .to_vec();
    for folder in ["docs", "tools", "deploy"] {
        collect(Path::new(folder), &mut paths);
    }
    paths.into_iter().map(Page::read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(root().join(folder)).expect("the folder can be read");
    for entry in entries {
        let entry = entry.expect("the entry can be read");
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
}

/// The anchor that GitHub gives a heading: in lower case, a hyphen for each space, and of other characters only letters,
/// figures, `-` and `_`.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            _ => character.is_alphanumeric().then_some(character),
        })
        .collect()
}

/// Of headings with the same anchor the second gets `-1`, the third `-2`.
fn numbered(anchor: String, used: &mut BTreeMap<String, usize>) -> String {
    let count = used.entry(anchor.clone()).or_default();
    *count += 1;
    match *count {
        1 => anchor,
        more => format!("{anchor}-{}", more - 1),
    }
}

#[test]
fn headings_become_anchors_as_at_github() {
    let page = Page {
        path: "docs/a.md".into(),
        text: "# One `--flag`, and (two)\n\n## A\n\n## A\n\n```sh\n# no heading\n```\n\n## 6clicks_x: é\n"
            .to_owned(),
    };
    let expected = ["one---flag-and-two", "a", "a-1", "6clicks_x-é"];
    assert_eq!(
        page.anchors(),
        expected.iter().map(|anchor| (*anchor).to_owned()).collect()
    );
}

#[test]
fn a_table_is_read_from_below_its_heading() {
    let page = Page {
        path: "docs/a.md".into(),
        text: "## A\n\n| x |\n|---|\n| 1 |\n\n## B\n\n| x | y |\n|---|---|\n| `p\\|q` | [r](s) t |\n"
            .to_owned(),
    };
    assert_eq!(page.table("B"), [["p|q".to_owned(), "r t".to_owned()]]);
}

#[test]
fn a_link_is_resolved_from_the_folder_of_its_page() {
    let page = Page {
        path: "docs/adr/a.md".into(),
        text: String::new(),
    };
    assert_eq!(page.resolve("../b.md"), Some("docs/b.md".into()));
    assert_eq!(page.resolve("../../c"), Some("c".into()));
    assert_eq!(page.resolve("../../../c"), None);
    assert_eq!(page.resolve("/c"), None);
}
