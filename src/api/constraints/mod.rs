//! Bounds and CEL rules of the schema, one function for each kind of field.
//!
//! A rule's message names the requirement, and the cure where it is not plain; literals stand in single quotes and
//! fields in back quotes, as Kubernetes' API conventions ask. The API server evaluates rules within a cost budget that
//! it estimates from the bounds, so every field has a bound.
//!
//! The rules at the root of the object, which read `metadata.name`, are in `crd`.

mod spec;
mod status;
mod target;
mod vendor_members;

use schemars::Schema;
use serde_json::{Value, json};

pub(super) use spec::{credential_keys, refresh, spec};
pub(super) use status::{conditions, observed_generation};
pub(super) use target::{target_annotations, target_data, target_labels, target_type};
pub(super) use vendor_members::{
    checkmarx_scopes, checkmarx_tenant, refresh_token_expiration_time, six_clicks_region, six_map_scopes,
};

/// Limit of a Secret's name and of a key in it, in characters.
const NAME_LENGTH: u32 = 253;

/// A CEL rule (`x-kubernetes-validations`).
pub(super) struct Rule {
    pub(super) rule: &'static str,
    pub(super) message: &'static str,
    /// The field that an error names, below the place of the rule, as in `.target.name`.
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

    /// Names the field whose absence breaks the rule.
    const fn required(self, field_path: &'static str) -> Self {
        Self {
            field_path: Some(field_path),
            reason: Some("FieldValueRequired"),
            ..self
        }
    }

    /// Names the field whose presence breaks the rule.
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

/// Makes an apply replace a reference as a whole: halves of two appliers would make a third reference.
pub(super) fn atomic(schema: &mut Schema) {
    set(schema, &[("x-kubernetes-map-type", json!("atomic"))]);
}

/// Sets an empty object as default, so that the defaults of its fields apply.
pub(super) fn default_empty_object(schema: &mut Schema) {
    set(schema, &[("default", json!({}))]);
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

/// A time. The length is for readers that ignore the format.
pub(super) fn time(schema: &mut Schema) {
    set(
        schema,
        &[("format", json!("date-time")), ("maxLength", json!(64))],
    );
}
