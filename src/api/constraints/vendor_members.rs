//! Bounds and rules of the vendors' members.

use schemars::Schema;
use serde_json::json;

use super::{Rule, rules, set, time};

/// RFC 6749, section 3.3: a scope is one or more of `%x21 / %x23-5B / %x5D-7E`.
pub(in crate::api) fn six_map_scopes(schema: &mut Schema) {
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

/// The part of the tenant's host after `app-`. It becomes part of a host name, hence the strict form.
pub(in crate::api) fn six_clicks_region(schema: &mut Schema) {
    set(
        schema,
        &[
            ("minLength", json!(1)),
            ("maxLength", json!(15)),
            // The pattern is for editors and linters without CEL, the rule below for its message.
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

/// The tenant. With the prefix `Tenant:` it becomes one word of `acr_values`, whose words white space separates.
pub(in crate::api) fn checkmarx_tenant(schema: &mut Schema) {
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

/// One or both scopes of Checkmarx.
pub(in crate::api) fn checkmarx_scopes(schema: &mut Schema) {
    set(
        schema,
        &[
            ("minItems", json!(1)),
            ("maxItems", json!(2)),
            ("x-kubernetes-list-type", json!("set")),
        ],
    );
}

/// A time that a person copies from the Picus console: a year far away is a typing mistake.
pub(in crate::api) fn refresh_token_expiration_time(schema: &mut Schema) {
    time(schema);
    // The format alone accepts a decimal comma and ten decimals, which stricter readers refuse.
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
