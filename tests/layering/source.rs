//! One source file, read with `syn`: its modules, and every path that its code uses. Code behind `#[cfg(test)]` is left
//! out. Bodies of macros are no syntax tree: their paths are read from their tokens.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
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
        reader.visit_file(&file);
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

    /// Paths in the tokens of a macro or an attribute.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut begin = Span::call_site();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path_ends(begin, &mut path);
                        begin = ident.span();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.path_ends(begin, &mut path);
                    colons = 0;
                    self.tokens(group.stream());
                }
                _ => {
                    self.path_ends(begin, &mut path);
                    colons = 0;
                }
            }
        }
        self.path_ends(begin, &mut path);
    }

    fn path_ends(&mut self, begin: Span, path: &mut Vec<String>) {
        if !path.is_empty() {
            self.used(begin, std::mem::take(path));
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        if let Some(name) = defined(item) {
            self.module().items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        self.module().children.insert(name.clone());
        let mut path = self.module().path.clone();
        path.push(name);
        match &item.content {
            Some((_, items)) => {
                let outer = self.current;
                self.begin(path);
                items.iter().for_each(|item| self.visit_item(item));
                self.current = outer;
            }
            None => self.source.declared.push(Declared {
                path,
                file: item.attrs.iter().find_map(path_attribute),
            }),
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.imported(&item.tree, Vec::new());
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_for_tests(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first() {
            let parts = path.segments.iter().map(|part| part.ident.to_string());
            self.used(first.ident.span(), parts.collect());
        }
        visit::visit_path(self, path);
    }

    /// `pub(super)` names a module and uses nothing of it.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        self.visit_path(&invoked.path);
        self.tokens(invoked.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.visit_path(&list.path);
        self.tokens(list.tokens.clone());
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(word) = &signature.asyncness {
            self.used(word.span, vec!["async".to_owned()]);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.used(block.async_token.span, vec!["async".to_owned()]);
        visit::visit_expr_async(self, block);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        if let Some(word) = &closure.asyncness {
            self.used(word.span, vec!["async".to_owned()]);
        }
        visit::visit_expr_closure(self, closure);
    }

    fn visit_expr_await(&mut self, expression: &'ast syn::ExprAwait) {
        self.used(expression.await_token.span, vec!["await".to_owned()]);
        visit::visit_expr_await(self, expression);
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
