//! Bounds of the status.

use schemars::Schema;
use serde_json::json;

use super::set;

/// A generation; −1 before the operator has seen the object. 2^53 − 1 is the largest integer that all JSON readers
/// keep.
pub(in crate::api) fn observed_generation(schema: &mut Schema) {
    set(
        schema,
        &[
            ("minimum", json!(-1)),
            ("maximum", json!(9_007_199_254_740_991_i64)),
        ],
    );
}

/// `metav1.Condition` with its own bounds, as a list-map by type.
pub(in crate::api) fn conditions(schema: &mut Schema) {
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
