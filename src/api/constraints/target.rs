//! Bounds and rules of `target`.

use schemars::Schema;
use serde_json::json;

use super::{NAME_LENGTH, Rule, atomic, rules, set, string_map};

/// The type of the target. The cluster's own controllers act on the two refused types: one is filled with a
/// ServiceAccount's token, the other admits nodes.
pub(in crate::api) fn target_type(schema: &mut Schema) {
    set(
        schema,
        &[("minLength", json!(1)), ("maxLength", json!(NAME_LENGTH))],
    );
    rules(
        schema,
        &[Rule::new(
            "!(self in ['kubernetes.io/service-account-token', 'bootstrap.kubernetes.io/token'])",
            "must not be 'kubernetes.io/service-account-token' or 'bootstrap.kubernetes.io/token', \
             which the cluster itself acts on: use 'Opaque' or a type of your own",
        )],
    );
}

/// Keys and templates of the target.
pub(in crate::api) fn target_data(schema: &mut Schema) {
    string_map(
        schema,
        16,
        json!({
            "type": "string",
            "maxLength": 4096,
            "description": "Text with placeholders. Example: `Bearer $(token)`.",
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([^$]|[$]+[^$(]|[$]{2,}[(]|[$][(](token|tokenType|expirationTime|issuedTime)[)])*[$]*$')",
                "message": "must hold no placeholder but '$(token)', '$(tokenType)', '$(expirationTime)' and '$(issuedTime)'; \
                            for a literal '$(' write '$$('",
            }],
        }),
    );
    set(schema, &[("minProperties", json!(1))]);
    // An apply replaces the whole map: the key of the default has no owner, and would stay beside the applied keys.
    atomic(schema);
    rules(
        schema,
        &[Rule::new(
            "self.all(key, key.size() <= 253 && key.matches('^[-._a-zA-Z0-9]+$') && key != '.' && !key.startsWith('..'))",
            "keys must be keys of a Secret: 1 to 253 letters, digits, '-', '_' and '.', not '.', \
             and not starting with '..'",
        )],
    );
}

/// Labels of the target.
pub(in crate::api) fn target_labels(schema: &mut Schema) {
    string_map(
        schema,
        32,
        json!({
            "type": "string",
            "maxLength": 63,
            "description": "Value of the label. Example: `appsec`.",
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",
                "message": "must be the value of a label: empty, or letters, digits, '-', '_' and '.', \
                            starting and ending with a letter or digit",
            }],
        }),
    );
    rules(
        schema,
        &[
            Rule::new(
                "self.all(key, !key.startsWith('vendortoken.io/') && key != 'app.kubernetes.io/managed-by')",
                "must not set 'app.kubernetes.io/managed-by' or a label of 'vendortoken.io/': \
                 remove it, the operator sets its own",
            ),
            Rule::new(
                r"self.all(key, key.indexOf('/') <= 253 && key.matches(r'^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
                "keys must be keys of labels: at most 63 letters, digits, '-', '_' and '.', starting and ending with \
                 a letter or digit, and before it, if you like, a DNS name and '/', for example 'example.com/team'",
            ),
        ],
    );
}

/// Annotations of the target. Unlike a label's prefix, that of an annotation may have upper-case letters.
pub(in crate::api) fn target_annotations(schema: &mut Schema) {
    string_map(
        schema,
        32,
        json!({
            "type": "string",
            "maxLength": 4096,
            "description": "Value of the annotation. Example: `appsec@example.com`.",
        }),
    );
    rules(
        schema,
        &[
            Rule::new(
                "self.all(key, !key.lowerAscii().startsWith('vendortoken.io/'))",
                "must not set an annotation of 'vendortoken.io/': remove it, the operator sets its own",
            ),
            Rule::new(
                r"self.all(key, key.indexOf('/') <= 253 && key.matches(r'^([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
                "keys must be keys of annotations: at most 63 letters, digits, '-', '_' and '.', starting and ending \
                 with a letter or digit, and before it, if you like, a DNS name and '/', for example 'example.com/team'",
            ),
        ],
    );
}
