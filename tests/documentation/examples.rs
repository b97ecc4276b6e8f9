//! The VendorTokens in the documentation are those of `deploy/examples/`, and its commands last.

use std::fs;

use serde_json::Value;

use super::page::{Page, root};

/// The VendorTokens that stand whole in the page.
fn vendor_tokens(page: &Page) -> Vec<Value> {
    page.blocks("yaml")
        .iter()
        .filter(|block| block.contains("kind: VendorToken"))
        .map(|block| serde_saphyr::from_str(block).unwrap())
        .collect()
}

fn example(name: &str) -> Value {
    let file = root().join(format!("deploy/examples/{name}.yaml"));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(file).unwrap()).unwrap();
    documents
        .into_iter()
        .find(|document| document["kind"] == "VendorToken")
        .unwrap()
}

#[test]
fn the_vendor_tokens_of_the_pages_are_those_of_the_examples() {
    for (page, count) in [("README.md", 1), ("docs/vendors.md", 5)] {
        let found = vendor_tokens(&Page::read(page));
        assert_eq!(found.len(), count, "{page}");
        for token in found {
            let name = token["metadata"]["name"].as_str().unwrap();
            assert_eq!(token, example(name), "{page}: {name}");
        }
    }
}

/// Flux takes over the fields of managers whose name begins with `kubectl`, and so undoes what they have set.
#[test]
fn a_page_shows_how_to_suspend_what_flux_manages() {
    let page = Page::read("docs/use.md");
    assert!(page.text.contains("**Flux**"));
    let commands = page.blocks("sh").join("\n");
    let mut suspending = commands
        .lines()
        .filter(|line| line.starts_with("kubectl patch vendortoken") && line.contains("suspend"));
    let lasts = |line: &str| {
        let manager = line.split_once("--field-manager=").map(|(_, manager)| manager);
        manager.is_some_and(|manager| !manager.starts_with("kubectl"))
    };
    assert!(suspending.any(lasts), "{commands}");
}
