//! The rules of the schema that a promise depends on, checked once more: an object may have been stored before a rule was,
//! or under a CustomResourceDefinition without it.

use std::collections::BTreeMap;

use crate::api::names::{self, Reason};
use crate::api::{RefreshSpec, VendorToken};
use crate::controller::cluster::secret_name::SecretName;
use crate::policy::Problem;

/// The longest value of a label.
const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 253;
const MOST_DATA_KEYS: usize = 16;
const MOST_LABELS: usize = 32;
const MOST_CREDENTIAL_KEYS: usize = 8;
/// The longest template, and the longest value of an annotation, in characters.
const LONGEST_TEXT: usize = 4096;
const MOST_SCOPES: usize = 32;
const LONGEST_SCOPE: usize = 128;
/// The types of Secrets that the cluster's own controllers act on.
const REFUSED_TYPES: [&str; 2] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
];
/// The prefix of the operator's own labels and annotations.
const OWN_PREFIX: &str = "vendortoken.io/";

/// Checks the name of the VendorToken, the target, the settings of the refresh, and the sizes of all lists.
pub(super) fn check(token: &VendorToken) -> Result<(), Problem> {
    let name = token.metadata.name.as_deref().unwrap_or_default();
    if name.len() > LONGEST_LABEL {
        return Err(invalid(format!(
            "`metadata.name` is longer than {LONGEST_LABEL} characters, and cannot be the value of a label: choose a shorter \
             name"
        )));
    }
    let target = &token.spec.target;
    if target.type_.is_empty() || target.type_.len() > LONGEST_NAME {
        return Err(invalid(format!(
            "`spec.target.type` is empty or longer than {LONGEST_NAME} characters: use 'Opaque' or a type of your own"
        )));
    }
    if REFUSED_TYPES.contains(&target.type_.as_str()) {
        return Err(invalid(format!(
            "`spec.target.type` is '{}', which the cluster itself acts on: use 'Opaque' or a type of your own",
            target.type_
        )));
    }
    bounded("spec.target.data", &target.data, MOST_DATA_KEYS, LONGEST_TEXT)?;
    bounded("spec.target.labels", &target.labels, MOST_LABELS, LONGEST_LABEL)?;
    bounded(
        "spec.target.annotations",
        &target.annotations,
        MOST_LABELS,
        LONGEST_TEXT,
    )?;
    let own_label = |key: &&String| key.starts_with(OWN_PREFIX) || **key == names::MANAGED_BY_LABEL;
    if let Some(key) = target.labels.keys().find(own_label) {
        return Err(own_key("spec.target.labels", key));
    }
    let own_annotation = |key: &&String| key.to_ascii_lowercase().starts_with(OWN_PREFIX);
    if let Some(key) = target.annotations.keys().find(own_annotation) {
        return Err(own_key("spec.target.annotations", key));
    }
    let keys = &token.spec.credentials_secret_ref.keys;
    bounded(
        "spec.credentialsSecretRef.keys",
        keys,
        MOST_CREDENTIAL_KEYS,
        LONGEST_NAME,
    )?;
    let scopes = token
        .spec
        .six_map
        .as_ref()
        .and_then(|member| member.scopes.as_ref());
    if let Some(scopes) = scopes {
        check_scopes(scopes)?;
    }
    token.spec.refresh.as_ref().map_or(Ok(()), check_refresh)
}

/// Checks that the whole object has a template. One that is kept without its templates has none.
pub(super) fn check_templates(token: &VendorToken) -> Result<(), Problem> {
    if token.spec.target.data.is_empty() {
        return Err(invalid(
            "`spec.target.data` has no key: name at least one".to_owned(),
        ));
    }
    Ok(())
}

/// Checks the name of a Secret in `field`.
pub(super) fn secret_name(field: &str, name: &str) -> Result<SecretName, Problem> {
    SecretName::new(name).ok_or_else(|| {
        invalid(format!(
            "`{field}` is not the name of a Secret: write lower-case letters, digits, '-' and '.', at most {LONGEST_NAME} \
             characters"
        ))
    })
}

fn invalid(message: String) -> Problem {
    Problem::new(Reason::InvalidSpec, message)
}

fn own_key(field: &str, key: &str) -> Problem {
    let key = crate::text::first_characters(key, LONGEST_NAME);
    invalid(format!(
        "`{field}` sets '{key}': remove it, the operator sets its own"
    ))
}

fn bounded(field: &str, map: &BTreeMap<String, String>, most: usize, longest: usize) -> Result<(), Problem> {
    let is_bounded = map.len() <= most
        && map
            .iter()
            // A key may have a prefix of 253 characters, a slash, and 63 more.
            .all(|(key, value)| {
                key.len() <= LONGEST_NAME + 1 + LONGEST_LABEL && value.chars().count() <= longest
            });
    if is_bounded {
        return Ok(());
    }
    Err(invalid(format!(
        "`{field}` is too large: name at most {most} keys with values of at most {longest} characters"
    )))
}

/// Checks number and length of scopes. Their characters are the vendor's concern.
fn check_scopes(scopes: &[String]) -> Result<(), Problem> {
    let is_short = |scope: &String| scope.len() <= LONGEST_SCOPE;
    if !scopes.is_empty() && scopes.len() <= MOST_SCOPES && scopes.iter().all(is_short) {
        return Ok(());
    }
    Err(invalid(format!(
        "`spec.sixMap.scopes` is not a list of 1 to {MOST_SCOPES} scopes of at most {LONGEST_SCOPE} characters: name fewer, or \
         shorter ones"
    )))
}

fn check_refresh(refresh: &RefreshSpec) -> Result<(), Problem> {
    let is_percent = |percent: i32| (10..=90).contains(&percent);
    let is_time = |seconds: i32| (30..=86_400).contains(&seconds);
    match (refresh.at_lifetime_percent, refresh.before_expiry_seconds) {
        (Some(_), Some(_)) => Err(invalid(
            "`spec.refresh` sets both `atLifetimePercent` and `beforeExpirySeconds`: remove one of them".to_owned(),
        )),
        (percent, seconds) if percent.is_none_or(is_percent) && seconds.is_none_or(is_time) => Ok(()),
        _ => Err(invalid(
            "`spec.refresh` is out of bounds: set `atLifetimePercent` to 10 to 90, or `beforeExpirySeconds` to 30 to \
             86400"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::reconcile::validated::ValidatedSpec;

    fn object(change: Value) -> VendorToken {
        let mut object = json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a" },
            "spec": { "vendor": "SixMap", "credentialsSecretRef": { "name": "c" } },
        });
        merge(&mut object, change);
        serde_json::from_value(object).unwrap()
    }

    fn merge(into: &mut Value, change: Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change,
        }
    }

    fn keys(count: usize) -> Value {
        (0..count)
            .map(|key| (format!("k{key}"), json!("v")))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    #[rstest]
    #[case::path_in_the_credentials_name(json!({ "spec": { "credentialsSecretRef": { "name": "../x" } } }), "credentialsSecretRef.name")]
    #[case::watch_in_the_credentials_name(json!({ "spec": { "credentialsSecretRef": { "name": "?watch=true" } } }), "credentialsSecretRef.name")]
    #[case::path_in_the_target_name(json!({ "spec": { "target": { "name": "a/b" } } }), "target.name")]
    #[case::path_in_the_certificate_name(
        json!({ "spec": { "vendor": "SixClicks", "sixClicks": { "region": "au", "clientCertificateSecretRef": { "name": "x?y" } } } }),
        "clientCertificateSecretRef.name"
    )]
    #[case::long_object_name(json!({ "metadata": { "name": "a".repeat(64) } }), "metadata.name")]
    #[case::service_account_type(json!({ "spec": { "target": { "type": "kubernetes.io/service-account-token" } } }), "target.type")]
    #[case::bootstrap_type(json!({ "spec": { "target": { "type": "bootstrap.kubernetes.io/token" } } }), "target.type")]
    #[case::empty_type(json!({ "spec": { "target": { "type": "" } } }), "target.type")]
    #[case::no_data(json!({ "spec": { "target": { "data": {} } } }), "target.data")]
    #[case::much_data(json!({ "spec": { "target": { "data": keys(17) } } }), "target.data")]
    #[case::long_template(json!({ "spec": { "target": { "data": { "k": "x".repeat(4097) } } } }), "target.data")]
    #[case::label_of_ours(json!({ "spec": { "target": { "labels": { "vendortoken.io/name": "x" } } } }), "target.labels")]
    #[case::managed_by(json!({ "spec": { "target": { "labels": { "app.kubernetes.io/managed-by": "x" } } } }), "target.labels")]
    #[case::many_labels(json!({ "spec": { "target": { "labels": keys(33) } } }), "target.labels")]
    #[case::annotation_of_ours(json!({ "spec": { "target": { "annotations": { "VendorToken.io/expiration-time": "x" } } } }), "target.annotations")]
    #[case::long_annotation(json!({ "spec": { "target": { "annotations": { "k": "x".repeat(4097) } } } }), "target.annotations")]
    #[case::many_credential_keys(json!({ "spec": { "credentialsSecretRef": { "keys": keys(9) } } }), "credentialsSecretRef.keys")]
    #[case::two_scopes_in_one(json!({ "spec": { "sixMap": { "scopes": ["a b"] } } }), "sixMap.scopes")]
    #[case::many_scopes(json!({ "spec": { "sixMap": { "scopes": vec!["a"; 33] } } }), "sixMap.scopes")]
    #[case::late_refresh(json!({ "spec": { "refresh": { "atLifetimePercent": 99 } } }), "spec.refresh")]
    #[case::refresh_at_once(json!({ "spec": { "refresh": { "beforeExpirySeconds": i32::MAX } } }), "spec.refresh")]
    #[case::two_refreshes(json!({ "spec": { "refresh": { "beforeExpirySeconds": 60, "atLifetimePercent": 50 } } }), "spec.refresh")]
    fn a_spec_that_the_schema_would_refuse_is_refused_in_code_too(
        #[case] change: Value,
        #[case] field: &str,
    ) {
        let problem = ValidatedSpec::of_whole(&object(change), &BTreeMap::new()).unwrap_err();
        assert_eq!(problem.reason, Reason::InvalidSpec);
        assert!(problem.message.contains(field), "{}", problem.message);
        assert!(problem.message.len() < 400, "{}", problem.message);
    }

    #[test]
    fn the_largest_spec_that_the_schema_takes_is_taken() {
        let mut labels = keys(31);
        labels[format!("{}/{}", "p".repeat(253), "n".repeat(63))] = json!("v".repeat(63));
        let largest = json!({
            "metadata": { "name": "a".repeat(63) },
            "spec": {
                "sixMap": { "scopes": (0..32).map(|scope| format!("{}{scope:02}", "~".repeat(126))).collect::<Vec<_>>() },
                "refresh": { "beforeExpirySeconds": 86400 },
                "target": {
                    "name": "a".repeat(253), "type": "t".repeat(253), "data": keys(16), "labels": labels,
                    "annotations": { "example.com/k": "é".repeat(4096) },
                },
            },
        });
        assert!(ValidatedSpec::of_whole(&object(largest), &BTreeMap::new()).is_ok());
    }
}
