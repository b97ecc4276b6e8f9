//! Short forms of JSON texts, for the many VendorTokens that are kept. A word that stands in all of them takes one
//! byte.

/// The words, each in the place of a byte that no compact JSON contains: control characters are escaped there.
const WORDS: [&str; 32] = [
    r#"{"apiVersion":"vendortoken.io/v1alpha1","kind":"VendorToken","metadata":{"#,
    r#""creationTimestamp":""#,
    r#"","generation":"#,
    r#","name":""#,
    r#"","namespace":""#,
    r#"","resourceVersion":""#,
    r#"","uid":""#,
    r#""},"spec":{"vendor":""#,
    r#"","credentialsSecretRef":{"name":""#,
    r#"","keys":{"#,
    r#"},"target":{"#,
    r#""type":"Opaque","data":{"#,
    r#""token":"$(token)""#,
    r#"},"labels":{"#,
    r#"},"annotations":{"#,
    r#""deletionPolicy":"Delete""#,
    r#"},"suspend":false"#,
    r#"},"status":{"#,
    r#""observedGeneration":"#,
    r#","conditions":[{"#,
    r#""lastTransitionTime":""#,
    r#"","message":""#,
    r#","reason":""#,
    r#"","status":"True","type":""#,
    r#"","status":"False","type":""#,
    r#""Ready""#,
    r#"}],"binding":{"name":""#,
    r#""},"issuedTime":""#,
    r#"","expirationTime":""#,
    r#"","nextRefreshTime":""#,
    r#"","endpoint":""#,
    "the token is in Secret '",
];

/// The short form of a compact JSON text.
pub(crate) fn pack(json: &[u8]) -> Box<[u8]> {
    let mut packed = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some((first, after)) = rest.split_first() {
        let word = (0_u8..)
            .zip(WORDS)
            .find(|(_, word)| rest.starts_with(word.as_bytes()));
        match word {
            Some((code, word)) => {
                packed.push(code);
                rest = rest.get(word.len()..).unwrap_or_default();
            }
            None => {
                packed.push(*first);
                rest = after;
            }
        }
    }
    packed.into()
}

/// The JSON text of a short form.
pub(crate) fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut json = Vec::with_capacity(packed.len() * 3);
    for byte in packed {
        match WORDS.get(usize::from(*byte)) {
            Some(word) => json.extend_from_slice(word.as_bytes()),
            None => json.push(*byte),
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn no_word_contains_a_byte_that_stands_for_a_word() {
        assert!(WORDS.iter().all(|word| word.bytes().all(|byte| byte >= 32)));
    }

    #[test]
    fn a_usual_object_is_short() {
        let time = "2026-01-01T00:00:00Z";
        let token: crate::api::VendorToken = serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "token-000001", "namespace": "cold-1", "uid": "11111111-2222-3333-4444-555555555555",
                "resourceVersion": "100001", "generation": 1, "creationTimestamp": time },
            "spec": { "vendor": "Picus", "credentialsSecretRef": { "name": "token-000001-credentials" } },
            "status": { "observedGeneration": 1, "issuedTime": time, "expirationTime": time, "nextRefreshTime": time,
                "binding": { "name": "token-000001" }, "endpoint": "localhost:40000",
                "conditions": [{ "type": "Ready", "status": "True", "reason": "Published", "observedGeneration": 1,
                    "lastTransitionTime": time,
                    "message": format!("the token is in Secret 'token-000001' and valid until {time}") }] },
        }))
        .unwrap();
        let json = serde_json::to_vec(&token).unwrap();
        let packed = pack(&json);
        println!(
            "{} bytes of {}: {}",
            packed.len(),
            json.len(),
            String::from_utf8_lossy(&packed)
        );
        assert_eq!(unpack(&packed), json);
        assert!(packed.len() < 400, "{}", packed.len());
    }

    proptest! {
        #[test]
        fn every_json_text_comes_back(
            parts in prop::collection::vec(prop_oneof![
                (0..32_usize).prop_map(|word| WORDS[word].to_owned()),
                r#"[ -~é"\\{}]{0,20}"#.prop_map(String::from),
            ], 0..30)
        ) {
            let text = parts.concat();
            prop_assert_eq!(unpack(&pack(text.as_bytes())), text.as_bytes());
        }
    }
}
