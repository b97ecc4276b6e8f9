//! The crates of the workspace as trees of modules, and where the names in their code lead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::source::{Module, Source};

pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The roots of every library, program and test of the workspace.
pub(crate) fn roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    for package in packages() {
        for file in ["src/lib.rs", "src/main.rs"] {
            roots.push(package.join(file));
        }
        for folder in ["src/bin", "tests", "examples", "benches"] {
            for entry in entries(&package.join(folder)) {
                roots.push(if entry.is_dir() {
                    entry.join("main.rs")
                } else {
                    entry
                });
            }
        }
    }
    roots.retain(|root| root.is_file() && root.extension().is_some_and(|extension| extension == "rs"));
    roots
}

/// The folders of the workspace's packages.
pub(crate) fn packages() -> Vec<PathBuf> {
    let mut packages = vec![workspace().to_owned()];
    packages.extend(entries(&workspace().join("tools")));
    packages.retain(|folder| folder.join("Cargo.toml").is_file());
    packages
}

/// The files and folders in a folder, in order; none where it is absent.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries
}

/// A crate: all its modules outside of `#[cfg(test)]`, by their paths, each with its file.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) modules: BTreeMap<Vec<String>, (String, Module)>,
}

impl Tree {
    /// Reads a crate from its root file.
    pub(crate) fn of(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.load(Vec::new(), root, root.parent().unwrap());
        tree
    }

    /// A crate of one file, for tests of the checks.
    pub(crate) fn of_texts(texts: &[(&[&str], &str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, file, text) in texts {
            let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
            tree.add(file, Source::read(&path, text).unwrap());
        }
        tree
    }

    /// Reads the module `path` from `file`; the modules that it declares lie in `folder`.
    fn load(&mut self, path: Vec<String>, file: &Path, folder: &Path) {
        let text = fs::read_to_string(file).unwrap();
        let source = Source::read(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let declared: Vec<_> = source
            .declared
            .iter()
            .map(|module| (module.path.clone(), module.file.clone()))
            .collect();
        self.add(&shown(file), source);
        for (child, given) in declared {
            let within: PathBuf = child[path.len()..].iter().collect();
            let place = folder.join(within);
            let candidates = match given {
                Some(given) => vec![file.parent().unwrap().join(given)],
                None => vec![place.with_extension("rs"), place.join("mod.rs")],
            };
            let found = candidates.into_iter().find(|candidate| candidate.is_file());
            let found = found.unwrap_or_else(|| panic!("no file of module {}", child.join("::")));
            let is_folder = found.file_name().is_some_and(|name| name == "mod.rs");
            let inside = if is_folder {
                found.parent().unwrap().to_owned()
            } else {
                place
            };
            self.load(child, &found, &inside);
        }
    }

    fn add(&mut self, file: &str, source: Source) {
        for module in source.modules {
            self.modules
                .insert(module.path.clone(), (file.to_owned(), module));
        }
    }

    /// The path from the crate's root that a path in the module `at` stands for; `None` for other crates' names and for
    /// names of the module's own items.
    pub(crate) fn absolute(&self, at: &[String], path: &[String]) -> Option<Vec<String>> {
        self.expand(at, path, 8)
    }

    fn expand(&self, at: &[String], path: &[String], limit: usize) -> Option<Vec<String>> {
        let first = path.first()?;
        let rest = &path[1..];
        let supers = path.iter().take_while(|part| *part == "super").count();
        let (base, rest) = match first.as_str() {
            "crate" => (Vec::new(), rest),
            "self" => (at.to_vec(), rest),
            "super" => (at[..at.len().saturating_sub(supers)].to_vec(), &path[supers..]),
            _ => {
                let (_, module) = self.modules.get(at)?;
                if module.children.contains(first) {
                    (at.to_vec(), path)
                } else {
                    let meant = module.names.get(first).filter(|meant| *meant != path)?;
                    let base = self.expand(at, meant, limit.checked_sub(1)?)?;
                    (base, rest)
                }
            }
        };
        Some([&base, rest].concat())
    }

    /// The module that a path from the crate's root leads to, as deep as modules go, and what remains of the path.
    pub(crate) fn module_at<'a>(&self, path: &'a [String]) -> (&'a [String], &'a [String]) {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.modules.contains_key(&path[..*depth]))
            .unwrap_or_default();
        path.split_at(depth)
    }

    /// The module that defines what a path in `at` names; a re-exported name leads on to where it is defined.
    pub(crate) fn definition(&self, at: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut path = self.absolute(at, path)?;
        for _ in 0..8 {
            let (module, rest) = self.module_at(&path);
            let is_reexport = |name: &String| {
                let (_, holder) = &self.modules[module];
                !holder.items.contains(name)
                    && !holder.children.contains(name)
                    && holder.names.contains_key(name)
            };
            match rest.first() {
                Some(name) if is_reexport(name) => match self.absolute(module, rest) {
                    Some(next) if next != path => path = next,
                    // Another crate's.
                    _ => return Some(module.to_vec()),
                },
                _ => return Some(module.to_vec()),
            }
        }
        None
    }
}

/// A file's name from the workspace's root.
pub(crate) fn shown(file: &Path) -> String {
    let relative = file.strip_prefix(workspace()).unwrap_or(file);
    let mut parts: Vec<_> = Vec::new();
    for part in relative.components() {
        if part.as_os_str() == ".." {
            parts.pop();
        } else {
            parts.push(part.as_os_str().to_str().unwrap());
        }
    }
    parts.join("/")
}
