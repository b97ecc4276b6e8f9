//! The API server's own count of requests.

use std::collections::BTreeMap;

use kube::Client;
use test_support::Error;

/// Requests for Secrets and VendorTokens since the API server's start, by verb and resource. Watches are counted when they
/// end.
pub(crate) async fn counted(client: &Client) -> Result<BTreeMap<String, u64>, Error> {
    let request = http::Request::get("/metrics")
        .body(Vec::new())
        .map_err(Error::step("make a request"))?;
    let text = client
        .request_text(request)
        .await
        .map_err(Error::step("read the API server's metrics"))?;
    Ok(count(&text))
}

fn count(metrics: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, value)) = line
            .strip_prefix("apiserver_request_total{")
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let (Some(verb), Some(resource)) = (label("verb"), label(",resource").or(label("resource"))) else {
            continue;
        };
        if !["secrets", "vendortokens"].contains(&resource) {
            continue;
        }
        let mut name = format!("{verb} {resource}");
        if let Some(subresource) = label("subresource").filter(|name| !name.is_empty()) {
            name = format!("{name}/{subresource}");
        }
        let value: f64 = value.parse().unwrap_or_default();
        *counts.entry(name).or_default() += value as u64;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_by_verb_and_resource() {
        let metrics = "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"secrets\",scope=\"resource\",subresource=\"\",verb=\"APPLY\",version=\"v1\"} 7\n\
            apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"secrets\",scope=\"resource\",subresource=\"\",verb=\"APPLY\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"vendortoken.io\",resource=\"vendortokens\",scope=\"resource\",subresource=\"status\",verb=\"APPLY\",version=\"v1alpha1\"} 2\n";
        let counts: Vec<_> = count(metrics).into_iter().collect();
        assert_eq!(
            counts,
            [
                ("APPLY secrets".to_owned(), 10),
                ("APPLY vendortokens/status".to_owned(), 2)
            ]
        );
    }
}
