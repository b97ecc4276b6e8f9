//! Finds secrets in texts, whole or in part, plain or in the encodings that programs commonly write.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A part of this many characters counts as a find: messages are cut, and a part is a leak too.
const PART: usize = 16;
/// The shortest value that can be told from other text.
const SHORTEST: usize = 12;

/// Values that must not be found, and what they are.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    /// What is searched for -> whose part it is, and in which form.
    needles: BTreeMap<String, String>,
    count: usize,
}

impl Marked {
    /// Adds a value under a name for messages. Upper and lower case are taken as the same.
    pub(crate) fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(
            secret.len() >= 12,
            "{name} is too short to be told from other text"
        );
        self.count += 1;
        for (form, text) in forms(secret) {
            for part in parts(&text.to_lowercase()) {
                self.needles
                    .entry(part)
                    .or_insert_with(|| format!("{name}, {form}"));
            }
        }
    }

    /// Adds a token: as a whole, and the parts of a JWT by themselves.
    pub(crate) fn add_token(&mut self, name: &str, token: &str) {
        self.add(name, token.as_bytes());
        for part in token.split('.').filter(|part| part.len() >= PART) {
            self.add(&format!("a part of {name}"), part.as_bytes());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// What of it stands in `text`, with the text around.
    pub(crate) fn find(&self, text: &str) -> Vec<String> {
        let text = text.to_lowercase();
        let bytes = text.as_bytes();
        // Thousands of needles and a log of many megabytes: look at the beginnings of needles only, and at most places
        // not even at those.
        let mut starts: HashMap<&[u8], Vec<(&str, &str)>> = HashMap::new();
        let mut likely = vec![false; 1 << 16];
        for (needle, what) in &self.needles {
            let start = &needle.as_bytes()[..SHORTEST];
            likely[digest(start)] = true;
            starts.entry(start).or_default().push((needle, what));
        }
        let mut found = BTreeMap::new();
        for at in 0..bytes.len().saturating_sub(SHORTEST - 1) {
            if !likely[digest(&bytes[at..])] {
                continue;
            }
            for (needle, what) in starts.get(&bytes[at..at + SHORTEST]).into_iter().flatten() {
                if bytes[at..].starts_with(needle.as_bytes()) {
                    found.entry(*what).or_insert_with(|| {
                        let context = &bytes[at.saturating_sub(300)..(at + 200).min(bytes.len())];
                        format!("{what}: {needle}\n    in: {}", String::from_utf8_lossy(context))
                    });
                }
            }
        }
        found.into_values().collect()
    }
}

/// Of the first four bytes.
fn digest(bytes: &[u8]) -> usize {
    let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (word.wrapping_mul(2_654_435_761) >> 16) as usize
}

/// Its beginning, middle and end: a part of a cut or split value is found by one of them.
fn parts(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let length = characters.len();
    if length <= PART {
        return vec![text.to_owned()];
    }
    [0, (length - PART) / 2, length - PART]
        .into_iter()
        .map(|start| characters[start..start + PART].iter().collect())
        .collect()
}

fn forms(secret: &[u8]) -> Vec<(&'static str, String)> {
    let mut forms = Vec::new();
    if let Ok(text) = std::str::from_utf8(secret) {
        forms.push(("plain", text.to_owned()));
        forms.push(("escaped", text.escape_debug().to_string()));
    }
    forms.push((
        "percent-encoded",
        secret
            .iter()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(*byte).to_string()
                }
                _ => format!("%{byte:02x}"),
            })
            .collect(),
    ));
    forms.push((
        "percent-encoded throughout",
        secret.iter().map(|byte| format!("%{byte:02x}")).collect(),
    ));
    forms.push((
        "hexadecimal",
        secret.iter().map(|byte| format!("{byte:02x}")).collect(),
    ));
    forms.push(("a list of bytes", format!("{secret:?}").replace(['[', ']'], "")));
    for offset in 0..3 {
        // Behind `offset` other bytes: without the characters that those have a part in, and those that what follows
        // the secret has a part in.
        let mut bytes = vec![0; offset];
        bytes.extend_from_slice(secret);
        let first = [0, 2, 3][offset];
        let last = bytes.len() * 8 / 6;
        for (form, text) in [
            ("base64", STANDARD_NO_PAD.encode(&bytes)),
            ("base64 for URLs", URL_SAFE_NO_PAD.encode(&bytes)),
        ] {
            forms.push((form, text[first..last].to_owned()));
        }
    }
    forms
}

/// A value that is found nowhere by chance: letters of both cases, digits, and what encodings change.
pub(crate) fn marker(signs: &str) -> String {
    let word = || {
        let mut bytes = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        let text: String = URL_SAFE_NO_PAD.encode(bytes);
        text.replace(['-', '_'], "x")
    };
    format!("{}{signs}{}", word(), word())
}

#[test]
fn a_planted_secret_is_found_in_every_form() {
    let secret = marker("/+=%&\" ");
    let mut marked = Marked::default();
    marked.add("the secret", secret.as_bytes());
    let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02X}")).collect();
    let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut planted = vec![
        secret.clone(),
        secret[..PART].to_owned(),
        secret[secret.len() - PART..].to_owned(),
        secret.to_uppercase(),
        format!("{secret:?}"),
        serde_json::to_string(&secret).unwrap(),
        percent,
        secret.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        format!("{:?}", secret.as_bytes()),
        hexadecimal,
    ];
    for before in ["", "a", "ab", "user:"] {
        for behind in ["", "c", "cd"] {
            let text = format!("{before}{secret}{behind}");
            planted.push(base64::engine::general_purpose::STANDARD.encode(&text));
            planted.push(base64::engine::general_purpose::URL_SAFE.encode(&text));
        }
    }
    for text in planted {
        let line = format!("{{\"message\":\"some text {text} and more\"}}");
        assert!(!marked.find(&line).is_empty(), "missed: {line}");
    }
    assert_eq!(marked.find(&marker("")), Vec::<String>::new());
    assert_eq!(marked.find(""), Vec::<String>::new());
}

#[test]
fn each_part_of_a_planted_jwt_is_found() {
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let parts = [
        encode("{\"alg\":\"RS256\",\"kid\":\"some-key\"}".to_owned()),
        encode(format!("{{\"sub\":\"{}\"}}", marker(""))),
        encode(marker("-")),
    ];
    let mut marked = Marked::default();
    marked.add_token("the token", &parts.join("."));
    for part in parts {
        assert!(
            !marked.find(&format!("Bearer {part}")).is_empty(),
            "missed: {part}"
        );
    }
}
