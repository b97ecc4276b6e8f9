//! Bounds and CEL rules of the schema, one function for each kind of field.
//!
//! A rule's message says what must be, and what to do where that is not plain; literals stand in single quotes
//! and fields in back quotes, as the API conventions of Kubernetes ask. Rules are evaluated by the API server
//! within a cost budget, which is estimated from the bounds: that is one reason why everything has a bound.
//!
//! The rules at the root of the object (they read `metadata.name`) are in `crd`.

use schemars::Schema;
use serde_json::{Value, json};

/// Longest name of a Secret, and longest key in one.
const NAME_LENGTH: u32 = 253;

/// A CEL rule (`x-kubernetes-validations`).
pub(super) struct Rule {
    pub(super) rule: &'static str,
    pub(super) message: &'static str,
    /// Field below the rule's place that is reported, as in `.target.name`.
    pub(super) field_path: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
}

impl Rule {
    pub(super) const fn new(rule: &'static str, message: &'static str) -> Self {
        Self {
            rule,
            message,
            field_path: None,
            reason: None,
        }
    }

    /// The rule is broken by a field that is not there.
    const fn required(self, field_path: &'static str) -> Self {
        Self {
            field_path: Some(field_path),
            reason: Some("FieldValueRequired"),
            ..self
        }
    }

    /// The rule is broken by a field that must not be there.
    const fn forbidden(self, field_path: &'static str) -> Self {
        Self {
            field_path: Some(field_path),
            reason: Some("FieldValueForbidden"),
            ..self
        }
    }

    pub(super) const fn at(self, field_path: &'static str) -> Self {
        Self {
            field_path: Some(field_path),
            ..self
        }
    }
}

fn set(schema: &mut Schema, members: &[(&str, Value)]) {
    for (name, value) in members {
        schema.insert((*name).to_owned(), value.clone());
    }
}

fn rules(schema: &mut Schema, rules: &[Rule]) {
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            let mut value = json!({ "rule": rule.rule, "message": rule.message });
            if let Some(field_path) = rule.field_path {
                value["fieldPath"] = json!(field_path);
            }
            if let Some(reason) = rule.reason {
                value["reason"] = json!(reason);
            }
            value
        })
        .collect();
    set(schema, &[("x-kubernetes-validations", json!(rules))]);
}

/// A reference is replaced as a whole: two appliers that each own half of one would make a third.
pub(super) fn atomic(schema: &mut Schema) {
    set(schema, &[("x-kubernetes-map-type", json!("atomic"))]);
}

/// Fields in it have defaults, so that an empty object is enough.
pub(super) fn default_empty_object(schema: &mut Schema) {
    set(schema, &[("default", json!({}))]);
}

/// Members match `vendor`, and keys of the credentials are those of that vendor.
pub(super) fn spec(schema: &mut Schema) {
    rules(
        schema,
        &[
            Rule::new(
                "!has(self.sixMap) || self.vendor == 'SixMap'",
                "`sixMap` must be left out unless `vendor` is 'SixMap': remove it, or change `vendor`",
            )
            .forbidden(".sixMap"),
            Rule::new(
                "!has(self.sixClicks) || self.vendor == 'SixClicks'",
                "`sixClicks` must be left out unless `vendor` is 'SixClicks': remove it, or change `vendor`",
            )
            .forbidden(".sixClicks"),
            Rule::new(
                "!has(self.checkmarxSCA) || self.vendor == 'CheckmarxSCA'",
                "`checkmarxSCA` must be left out unless `vendor` is 'CheckmarxSCA': remove it, or change `vendor`",
            )
            .forbidden(".checkmarxSCA"),
            Rule::new(
                "!has(self.mapiq) || self.vendor == 'Mapiq'",
                "`mapiq` must be left out unless `vendor` is 'Mapiq': remove it, or change `vendor`",
            )
            .forbidden(".mapiq"),
            Rule::new(
                "!has(self.picus) || self.vendor == 'Picus'",
                "`picus` must be left out unless `vendor` is 'Picus': remove it, or change `vendor`",
            )
            .forbidden(".picus"),
            Rule::new(
                "has(self.sixClicks) || self.vendor != 'SixClicks'",
                "`sixClicks` must be set when `vendor` is 'SixClicks': add it with `region`, \
                 for example 'au' for a tenant at 'https://app-au.6clicks.io'",
            )
            .required(".sixClicks"),
            Rule::new(
                "has(self.checkmarxSCA) || self.vendor != 'CheckmarxSCA'",
                "`checkmarxSCA` must be set when `vendor` is 'CheckmarxSCA': add it with `region` \
                 ('US' or 'EU') and `tenant`",
            )
            .required(".checkmarxSCA"),
            Rule::new(
                "!(self.vendor in ['SixMap', 'Mapiq']) || !has(self.credentialsSecretRef.keys) || \
                 self.credentialsSecretRef.keys.all(key, key in ['client-id', 'client-secret'])",
                "`credentialsSecretRef.keys` must name 'client-id' or 'client-secret' only, \
                 when `vendor` is 'SixMap' or 'Mapiq'",
            )
            .at(".credentialsSecretRef.keys"),
            Rule::new(
                "self.vendor != 'SixClicks' || !has(self.credentialsSecretRef.keys) || \
                 self.credentialsSecretRef.keys.all(key, key == 'api-key')",
                "`credentialsSecretRef.keys` must name 'api-key' only, when `vendor` is 'SixClicks'",
            )
            .at(".credentialsSecretRef.keys"),
            Rule::new(
                "self.vendor != 'CheckmarxSCA' || !has(self.credentialsSecretRef.keys) || \
                 self.credentialsSecretRef.keys.all(key, key in ['username', 'password'])",
                "`credentialsSecretRef.keys` must name 'username' or 'password' only, \
                 when `vendor` is 'CheckmarxSCA'",
            )
            .at(".credentialsSecretRef.keys"),
            Rule::new(
                "self.vendor != 'Picus' || !has(self.credentialsSecretRef.keys) || \
                 self.credentialsSecretRef.keys.all(key, key == 'refresh-token')",
                "`credentialsSecretRef.keys` must name 'refresh-token' only, when `vendor` is 'Picus'",
            )
            .at(".credentialsSecretRef.keys"),
        ],
    );
}

/// The name of a Secret: a DNS subdomain (RFC 1123, as Kubernetes reads it).
pub(super) fn secret_name(schema: &mut Schema) {
    set(
        schema,
        &[("minLength", json!(1)), ("maxLength", json!(NAME_LENGTH))],
    );
    rules(
        schema,
        &[Rule::new(
            r"self.matches(r'^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
            "must be the name of a Secret: lower-case letters, digits, '-' and '.', \
             each part between dots starting and ending with a letter or digit, for example 'sca-credentials'",
        )],
    );
}

/// A map with string values; both are bounded.
fn string_map(schema: &mut Schema, max_properties: u32, value: Value) {
    set(
        schema,
        &[
            ("maxProperties", json!(max_properties)),
            ("x-kubernetes-map-type", json!("granular")),
            ("additionalProperties", value),
        ],
    );
}

/// Canonical key to key in the Secret. Which keys are canonical depends on the vendor: see [`spec`].
pub(super) fn credential_keys(schema: &mut Schema) {
    string_map(
        schema,
        8,
        json!({
            "type": "string",
            "minLength": 1,
            "maxLength": NAME_LENGTH,
            "description": "Key in your Secret. Example: `PASSWORD`.",
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[-._a-zA-Z0-9]+$')",
                "message": "must be a key of a Secret: letters, digits, '-', '_' and '.' only",
            }],
        }),
    );
}

/// RFC 6749, section 3.3: a scope is one or more of `%x21 / %x23-5B / %x5D-7E`.
pub(super) fn six_map_scopes(schema: &mut Schema) {
    set(
        schema,
        &[
            ("minItems", json!(1)),
            ("maxItems", json!(32)),
            ("x-kubernetes-list-type", json!("set")),
            (
                "items",
                json!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 128,
                    "description": "One scope. Example: `read:assets`.",
                    "x-kubernetes-validations": [{
                        "rule": r"self.matches(r'^[!#-\[\]-~]+$')",
                        "message": "must be one scope: printable ASCII characters without white space, \
                                    double quotes and backslashes; write several scopes as several items of the list",
                    }],
                }),
            ),
        ],
    );
}

/// The part of the tenant's host after `app-`. It becomes part of a host name, so nothing else may pass.
pub(super) fn six_clicks_region(schema: &mut Schema) {
    set(
        schema,
        &[
            ("minLength", json!(1)),
            ("maxLength", json!(15)),
            // Said twice: the pattern for editors and linters that know no CEL, the rule for people.
            ("pattern", json!("^[a-z][a-z0-9-]{0,14}$")),
        ],
    );
    rules(
        schema,
        &[Rule::new(
            "self.matches('^[a-z][a-z0-9-]{0,14}$')",
            "must be the part of your 6clicks address between 'app-' and '.6clicks.io': 1 to 15 lower-case letters, \
             digits and '-', starting with a letter, for example 'au'",
        )],
    );
}

/// The tenant becomes one word of `acr_values`, which is separated by white space, after the prefix `Tenant:`.
pub(super) fn checkmarx_tenant(schema: &mut Schema) {
    set(schema, &[("minLength", json!(1)), ("maxLength", json!(128))]);
    rules(
        schema,
        &[
            Rule::new(
                r"!self.matches(r'[\s\pZ\pC]')",
                "must be the name of the tenant account without white space and control characters, \
                 for example 'acme'",
            ),
            Rule::new(
                "!self.lowerAscii().startsWith('tenant:')",
                "must be the name of the tenant account alone, for example 'acme': \
                 remove the prefix 'Tenant:', the operator adds it",
            ),
        ],
    );
}

/// One or both of Checkmarx' two scopes.
pub(super) fn checkmarx_scopes(schema: &mut Schema) {
    set(
        schema,
        &[
            ("minItems", json!(1)),
            ("maxItems", json!(2)),
            ("x-kubernetes-list-type", json!("set")),
        ],
    );
}

/// A time. The length is a second fence, for readers that do not know the format.
pub(super) fn time(schema: &mut Schema) {
    set(
        schema,
        &[("format", json!("date-time")), ("maxLength", json!(64))],
    );
}

/// A time that a person copies from the Picus console: a year out of reach is a typing mistake.
pub(super) fn refresh_token_expiration_time(schema: &mut Schema) {
    time(schema);
    // The format alone lets through what stricter readers refuse: a decimal comma, ten and more decimals.
    set(
        schema,
        &[
            ("maxLength", json!(35)),
            (
                "pattern",
                json!(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$"),
            ),
        ],
    );
    rules(
        schema,
        &[Rule::new(
            "self >= timestamp('2000-01-01T00:00:00Z') && self < timestamp('2100-01-01T00:00:00Z')",
            "must be a time between the years 2000 and 2100, for example '2027-03-31T00:00:00Z'",
        )],
    );
}

/// The type of the target. The two refused types make the cluster's own controllers act on the Secret: one fills
/// it with a ServiceAccount's token, the other admits nodes.
pub(super) fn target_type(schema: &mut Schema) {
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
pub(super) fn target_data(schema: &mut Schema) {
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
pub(super) fn target_labels(schema: &mut Schema) {
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

/// Annotations of the target. The part before the `/` may have upper-case letters, unlike that of a label.
pub(super) fn target_annotations(schema: &mut Schema) {
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

/// One way to say when, not two.
pub(super) fn refresh(schema: &mut Schema) {
    rules(
        schema,
        &[Rule::new(
            "!has(self.atLifetimePercent) || !has(self.beforeExpirySeconds)",
            "`atLifetimePercent` and `beforeExpirySeconds` must not both be set: remove one of them",
        )],
    );
}

/// A generation; −1 stands for "not looked at". 2^53 − 1 is the largest integer that every JSON reader keeps.
pub(super) fn observed_generation(schema: &mut Schema) {
    set(
        schema,
        &[
            ("minimum", json!(-1)),
            ("maximum", json!(9_007_199_254_740_991_i64)),
        ],
    );
}

/// `metav1.Condition` with its own bounds, as list-map by type.
pub(super) fn conditions(schema: &mut Schema) {
    set(
        schema,
        &[
            ("maxItems", json!(16)),
            ("x-kubernetes-list-type", json!("map")),
            ("x-kubernetes-list-map-keys", json!(["type"])),
            (
                "items",
                json!({
                    "type": "object",
                    "description": "One aspect of the VendorToken's state.",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 316,
                            "description": "The aspect. Example: `Ready`.",
                        },
                        "status": {
                            "type": "string",
                            "enum": ["True", "False", "Unknown"],
                            "description": "Whether it holds: `True`, `False` or `Unknown`. Example: `True`.",
                        },
                        "observedGeneration": {
                            "type": "integer",
                            "format": "int64",
                            "minimum": 0,
                            "maximum": 9_007_199_254_740_991_i64,
                            "description": "The `metadata.generation` that the condition speaks about. Example: `3`.",
                        },
                        "lastTransitionTime": {
                            "type": "string",
                            "format": "date-time",
                            "maxLength": 64,
                            "description": "When `status` changed last; RFC 3339, UTC. Example: `2026-05-04T10:00:00Z`.",
                        },
                        "reason": {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 64,
                            "pattern": "^[A-Z][A-Za-z]*$",
                            "description": "Why, in one word. Example: `Published`.",
                        },
                        "message": {
                            "type": "string",
                            "maxLength": 2048,
                            "description": "Why, and what to do, for people. \
                                            Example: `the Secret holds a token that is valid until 2026-05-04T11:00:00Z`.",
                        },
                    },
                }),
            ),
        ],
    );
}
