//! One source file: its modules and imports, read with `syn`, and every path that its code uses, read from the tokens of its
//! items, so that bodies of macros are read too. Items behind `#[cfg(test)]` are left out.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, ImplItem, Item, UseTree};

/// A path in the code: `crate::policy::decide` as three parts. The words `async` and `await` are paths of one part.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    pub(crate) line: usize,
    pub(crate) parts: Vec<String>,
}

/// A module whose text is in the file: the file's own, or an inline one.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// From the crate's root: `policy`, `status`.
    pub(crate) path: Vec<String>,
    /// Names of the modules declared here, inline or by `mod name;`.
    pub(crate) children: BTreeSet<String>,
    /// Items that are defined here.
    pub(crate) items: BTreeSet<String>,
    /// Names that `use` brings in, and the paths they stand for.
    pub(crate) names: BTreeMap<String, Vec<String>>,
    pub(crate) uses: Vec<Used>,
}

/// A module that has a file of its own.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) path: Vec<String>,
    /// The value of `#[path]`.
    pub(crate) file: Option<String>,
}

/// What one file holds.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The file's own module first.
    pub(crate) modules: Vec<Module>,
    pub(crate) declared: Vec<Declared>,
}

impl Source {
    /// Reads the text of the file that holds the module `path`.
    pub(crate) fn read(path: &[String], text: &str) -> syn::Result<Self> {
        let file = syn::parse_file(text)?;
        let mut reader = Reader {
            source: Self::default(),
            current: 0,
        };
        reader.begin(path.to_vec());
        reader.items(&file.items);
        Ok(reader.source)
    }
}

struct Reader {
    source: Source,
    current: usize,
}

impl Reader {
    fn begin(&mut self, path: Vec<String>) {
        self.source.modules.push(Module {
            path,
            ..Module::default()
        });
        self.current = self.source.modules.len() - 1;
    }

    fn module(&mut self) -> &mut Module {
        &mut self.source.modules[self.current]
    }

    fn used(&mut self, span: Span, parts: Vec<String>) {
        let line = span.start().line;
        self.module().uses.push(Used { line, parts });
    }

    fn imported(&mut self, tree: &UseTree, mut prefix: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.imported(&path.tree, prefix);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.imported(tree, prefix.clone());
                }
            }
            UseTree::Name(name) => self.imported_name(&name.ident, &name.ident, prefix),
            UseTree::Rename(rename) => self.imported_name(&rename.ident, &rename.rename, prefix),
            UseTree::Glob(glob) => {
                prefix.push("*".to_owned());
                self.used(glob.star_token.spans[0], prefix);
            }
        }
    }

    fn imported_name(&mut self, ident: &syn::Ident, known_as: &syn::Ident, mut path: Vec<String>) {
        // `use crate::policy::{self, …}` names the module.
        if ident != "self" {
            path.push(ident.to_string());
        }
        let name = if known_as == "self" {
            path.last().cloned().unwrap_or_default()
        } else {
            known_as.to_string()
        };
        self.module().names.insert(name, path.clone());
        self.used(ident.span(), path);
    }

    fn items(&mut self, items: &[Item]) {
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            self.module().items.extend(defined(item));
            match item {
                Item::Use(item) => self.imported(&item.tree, Vec::new()),
                Item::Mod(item) => self.declared(item),
                Item::Impl(item) => {
                    let mut head = item.clone();
                    head.items.clear();
                    self.tokens(head.into_token_stream(), &[]);
                    for inner in item.items.iter().filter(|inner| !is_for_tests(of_impl(inner))) {
                        self.tokens(inner.to_token_stream(), &[]);
                    }
                }
                item => self.tokens(item.to_token_stream(), &[]),
            }
        }
    }

    fn declared(&mut self, item: &syn::ItemMod) {
        let name = item.ident.to_string();
        self.module().children.insert(name.clone());
        let mut path = self.module().path.clone();
        path.push(name);
        match &item.content {
            Some((_, items)) => {
                let outer = self.current;
                self.begin(path);
                self.items(items);
                self.current = outer;
            }
            None => self.source.declared.push(Declared {
                path,
                file: item.attrs.iter().find_map(path_attribute),
            }),
        }
    }

    /// The paths in these tokens, each behind `prefix`: `a::{b, c::d}` are two.
    fn tokens(&mut self, tokens: TokenStream, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let mut begin = Span::call_site();
        let (mut colons, mut is_visibility) = (0, false);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path_ends(begin, &mut path, prefix);
                        begin = ident.span();
                    }
                    is_visibility = ident == "pub";
                    path.push(ident.to_string());
                }
                TokenTree::Group(group) if colons == 2 && group.delimiter() == Delimiter::Brace => {
                    self.tokens(group.stream(), &path);
                    path = prefix.to_vec();
                }
                TokenTree::Group(group) => {
                    self.path_ends(begin, &mut path, prefix);
                    // `pub(super)` names a module and uses nothing of it.
                    if !(is_visibility && group.delimiter() == Delimiter::Parenthesis) {
                        self.tokens(group.stream(), &[]);
                    }
                    is_visibility = false;
                }
                _ => self.path_ends(begin, &mut path, prefix),
            }
            colons = 0;
        }
        self.path_ends(begin, &mut path, prefix);
    }

    fn path_ends(&mut self, begin: Span, path: &mut Vec<String>, prefix: &[String]) {
        if path.len() > prefix.len() {
            self.used(begin, std::mem::replace(path, prefix.to_vec()));
        }
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|condition| condition.is_ident("test"))
    })
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) if pair.path.is_ident("path") => Some(text.value()),
        _ => None,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn of_impl(item: &ImplItem) -> &[Attribute] {
    match item {
        ImplItem::Const(item) => &item.attrs,
        ImplItem::Fn(item) => &item.attrs,
        ImplItem::Type(item) => &item.attrs,
        ImplItem::Macro(item) => &item.attrs,
        _ => &[],
    }
}

fn defined(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
