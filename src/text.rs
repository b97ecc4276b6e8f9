//! Short functions over text.
//!
//! May use: nothing of ours.

/// The first `count` characters of `text`, or all of it.
pub fn first_characters(text: &str, count: usize) -> &str {
    text.char_indices()
        .nth(count)
        .and_then(|(end, _)| text.get(..end))
        .unwrap_or(text)
}

/// `text` with blanks in the place of control characters.
pub fn without_control_characters(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

/// A number that spreads names over time, the same in each run: not for hash tables, and not against attackers.
pub fn spread(name: &str) -> u64 {
    name.bytes().fold(0, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(first_characters("aéb", 2), "aé");
        assert_eq!(first_characters("aéb", 0), "");
    }

    #[test]
    fn a_short_text_stays_whole() {
        assert_eq!(first_characters("aéb", 3), "aéb");
        assert_eq!(first_characters("", 5), "");
    }

    #[test]
    fn control_characters_become_blanks() {
        assert_eq!(without_control_characters("a\r\nb\u{85}é"), "a  b é");
    }

    #[test]
    fn the_spread_of_a_name_stays_the_same() {
        assert_eq!(spread("ab"), 97 * 31 + 98);
        assert_eq!(spread(""), 0);
    }
}
