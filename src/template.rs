//! Placeholders in `spec.target.data`, on purpose no template language.
//!
//! May use: `token`, `text`. `$(token)`, `$(tokenType)`, `$(expirationTime)` and `$(issuedTime)` are replaced. The last
//! two `$` before a `(` make a literal `$`.

use zeroize::Zeroizing;

use crate::text::first_characters;
use crate::token::{AccessToken, ExposeSecret};

/// A placeholder by its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    Token,
    TokenType,
    ExpirationTime,
    IssuedTime,
}

impl Placeholder {
    fn named(name: &str) -> Option<Self> {
        match name {
            "token" => Some(Self::Token),
            "tokenType" => Some(Self::TokenType),
            "expirationTime" => Some(Self::ExpirationTime),
            "issuedTime" => Some(Self::IssuedTime),
            _ => None,
        }
    }
}

/// A part of a template.
enum Piece<'a> {
    Text(&'a str),
    Dollars(usize),
    Placeholder(Placeholder),
}

/// Splits `template` into its pieces. The error names the first `$(` that is unknown or unclosed.
fn pieces(template: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        let (text, tail) = rest.split_at(at);
        pieces.push(Piece::Text(text));
        let after = tail.trim_start_matches('$');
        let dollars = tail.len() - after.len();
        rest = after;
        if !after.starts_with('(') {
            pieces.push(Piece::Dollars(dollars));
            continue;
        }
        if dollars >= 2 {
            pieces.push(Piece::Dollars(dollars - 1));
            continue;
        }
        let Some((name, tail)) = after.trim_start_matches('(').split_once(')') else {
            return Err("an unclosed '$('".to_owned());
        };
        match Placeholder::named(name).filter(|_| after.starts_with(&format!("({name})"))) {
            Some(placeholder) => pieces.push(Piece::Placeholder(placeholder)),
            None => {
                return Err(format!(
                    "the unknown placeholder '$({})'",
                    first_characters(name, 32)
                ));
            }
        }
        rest = tail;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// Checks a template. The error names its fault.
pub fn check(template: &str) -> Result<(), String> {
    pieces(template).map(|_| ())
}

/// Length of the result of [`render`], in bytes.
pub fn rendered_length(template: &str, token: &AccessToken) -> usize {
    pieces(template).map_or(template.len(), |pieces| length_of(&pieces, token))
}

fn length_of(pieces: &[Piece<'_>], token: &AccessToken) -> usize {
    let length = |piece: &Piece<'_>| match piece {
        Piece::Text(text) => text.len(),
        Piece::Dollars(count) => *count,
        Piece::Placeholder(Placeholder::Token) => token.value.expose_secret().len(),
        Piece::Placeholder(Placeholder::TokenType) => token.token_type.len(),
        Piece::Placeholder(Placeholder::ExpirationTime) => token.expires.to_string().len(),
        Piece::Placeholder(Placeholder::IssuedTime) => token.issued.to_string().len(),
    };
    pieces.iter().map(length).sum()
}

/// Replaces the placeholders in `template`. A template that fails [`check`] stays as it is.
pub fn render(template: &str, token: &AccessToken) -> Zeroizing<String> {
    let Ok(pieces) = pieces(template) else {
        return Zeroizing::new(template.to_owned());
    };
    rendered(&pieces, token)
}

/// The token in `text`, which is the result of [`render`] of `template` for a token of this type and these times. `None`
/// where `text` is another one, or the template has not exactly one `$(token)`.
pub fn token_in<'a>(template: &str, text: &'a str, facts: &AccessToken) -> Option<&'a str> {
    let pieces = pieces(template).ok()?;
    let is_token = |piece: &Piece<'_>| matches!(piece, Piece::Placeholder(Placeholder::Token));
    let at = pieces.iter().position(is_token)?;
    let (before, behind) = (pieces.get(..at)?, pieces.get(at + 1..)?);
    let token = text
        .strip_prefix(rendered(before, facts).as_str())?
        .strip_suffix(rendered(behind, facts).as_str())?;
    (!token.is_empty() && !behind.iter().any(is_token)).then_some(token)
}

/// True where the text of this template shows the token in a form in which [`token_in`] finds it.
pub fn shows_token(template: &str) -> bool {
    let is_token = |piece: &&Piece<'_>| matches!(piece, Piece::Placeholder(Placeholder::Token));
    pieces(template).is_ok_and(|pieces| pieces.iter().filter(is_token).count() == 1)
}

fn rendered(pieces: &[Piece<'_>], token: &AccessToken) -> Zeroizing<String> {
    // Of the final size, since a text that grows leaves copies in freed memory.
    let mut text = Zeroizing::new(String::with_capacity(length_of(pieces, token)));
    for piece in pieces {
        match piece {
            Piece::Text(piece) => text.push_str(piece),
            Piece::Dollars(count) => text.extend(std::iter::repeat_n('$', *count)),
            Piece::Placeholder(Placeholder::Token) => text.push_str(token.value.expose_secret()),
            Piece::Placeholder(Placeholder::TokenType) => text.push_str(&token.token_type),
            Piece::Placeholder(Placeholder::ExpirationTime) => text.push_str(&token.expires.to_string()),
            Piece::Placeholder(Placeholder::IssuedTime) => text.push_str(&token.issued.to_string()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::token::SecretString;

    #[rstest]
    #[case::once("Bearer $(token)", true)]
    #[case::twice("$(token)$(token)", false)]
    #[case::as_text("$$(token)", false)]
    #[case::other_facts("$(expirationTime)", false)]
    fn a_template_shows_the_token_where_it_can_be_found_again(#[case] template: &str, #[case] shows: bool) {
        assert_eq!(shows_token(template), shows);
        let text = render(template, &token());
        assert_eq!(token_in(template, &text, &token()).is_some(), shows);
    }

    #[rstest]
    #[case::alone("$(token)")]
    #[case::a_header("Authorization: $(tokenType) $(token)\n")]
    #[case::between_times("$(issuedTime)|$ $(token)|$(expirationTime)")]
    fn a_token_is_found_again_in_what_was_rendered(#[case] template: &str) {
        let text = render(template, &token());
        assert_eq!(token_in(template, &text, &token()), Some("T0K"));
    }

    #[rstest]
    #[case::no_placeholder("T0K", "T0K")]
    #[case::two_of_them("$(token)$(token)", "T0KT0K")]
    #[case::other_times("$(issuedTime) $(token)", "2027-01-01T00:00:00Z T0K")]
    #[case::an_empty_token("Bearer $(token)", "Bearer ")]
    #[case::another_text("Bearer $(token)", "Basic T0K")]
    fn no_token_is_found_in_another_text(#[case] template: &str, #[case] text: &str) {
        assert_eq!(token_in(template, text, &token()), None);
    }

    fn token() -> AccessToken {
        AccessToken {
            value: SecretString::from("T0K"),
            token_type: "Bearer".to_owned(),
            type_is_unusual: false,
            issued: "2026-01-01T00:00:00Z".parse().unwrap(),
            expires: "2026-01-01T01:00:00Z".parse().unwrap(),
            expiry_assumed: false,
            clock_skew_suspected: false,
            unusually_long: false,
            not_before: None,
        }
    }

    #[rstest]
    #[case::the_token("$(token)", "T0K")]
    #[case::a_header("Authorization: $(tokenType) $(token)", "Authorization: Bearer T0K")]
    #[case::times(
        "$(issuedTime)/$(expirationTime)",
        "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z"
    )]
    #[case::two_dollars_are_a_literal_one("$$(token)", "$(token)")]
    #[case::the_last_two_dollars_count("$$$(token)", "$$(token)")]
    #[case::dollars_without_a_parenthesis_stay("a$b$$c$", "a$b$$c$")]
    #[case::a_closing_parenthesis_alone("a)b(c", "a)b(c")]
    #[case::twice("$(token)$(token)", "T0KT0K")]
    #[case::empty("", "")]
    #[case::not_ascii("ü$(token)ü", "üT0Kü")]
    fn placeholders_are_replaced(#[case] template: &str, #[case] expected: &str) {
        assert_eq!(check(template), Ok(()));
        assert_eq!(*render(template, &token()), expected);
        assert_eq!(rendered_length(template, &token()), expected.len());
    }

    #[rstest]
    #[case("$(tokn)", "the unknown placeholder '$(tokn)'")]
    #[case("$(token", "an unclosed '$('")]
    #[case("$()", "the unknown placeholder '$()'")]
    #[case("$((token)", "the unknown placeholder '$(token)'")]
    fn an_unknown_or_unclosed_placeholder_is_refused(#[case] template: &str, #[case] expected: &str) {
        assert_eq!(check(template), Err(expected.to_owned()));
    }
}
