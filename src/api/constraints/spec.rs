//! Bounds and rules of the spec as a whole.

use schemars::Schema;
use serde_json::json;

use super::{NAME_LENGTH, Rule, rules, string_map};

/// Rules that the members and the credentials' keys belong to `vendor`.
pub(in crate::api) fn spec(schema: &mut Schema) {
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

/// Map from canonical key to key in the Secret. The canonical keys depend on the vendor: see [`spec`].
pub(in crate::api) fn credential_keys(schema: &mut Schema) {
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

/// Rule against two refresh times.
pub(in crate::api) fn refresh(schema: &mut Schema) {
    rules(
        schema,
        &[Rule::new(
            "!has(self.atLifetimePercent) || !has(self.beforeExpirySeconds)",
            "`atLifetimePercent` and `beforeExpirySeconds` must not both be set: remove one of them",
        )],
    );
}
