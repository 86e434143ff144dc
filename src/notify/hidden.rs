//! Keeps secrets out of what is told about a failure.

use secrecy::{ExposeSecret, SecretString};

/// Characters from which a part of an address may be a token. Shorter ones (`v2`, `send`) are words.
const TOKEN_CHARS_MIN: usize = 8;
/// Characters of an answer that are shown.
const SHOWN_CHARS_MAX: usize = 200;
/// What stands for what was left out.
const MARK: &str = "[…]";

/// Returns `text` on one line and not too long, without the secrets and without the parts of addresses that may be
/// tokens.
pub(super) fn without_secrets(text: &str, secrets: &[SecretString]) -> String {
    let mut shown = text.to_owned();
    for secret in secrets {
        let secret = secret.expose_secret();
        if !secret.is_empty() {
            shown = shown.replace(secret, MARK);
        }
        let after_host = secret.split_once("://").and_then(|(_, rest)| rest.split_once(['/', '?']));
        let parts = after_host.map(|(_, path)| path.split(['/', '?', '&', '=', '#'])).into_iter().flatten();
        for part in parts.filter(|part| part.len() >= TOKEN_CHARS_MIN) {
            shown = shown.replace(part, MARK);
        }
    }
    one_line(&shown, SHOWN_CHARS_MAX)
}

/// Returns `text` on one line, and at most so many characters of it.
pub(super) fn one_line(text: &str, chars_max: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Returns as much of `text` as fits into so many bytes, to a border of a character and, if there is one near, of a
/// line; what was cut off is marked.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    const SIGN: &str = "\n…";
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub(SIGN.len()));
    let whole_lines = text[..end].rfind('\n').filter(|line| *line >= end / 2);
    format!("{}{SIGN}", text[..whole_lines.unwrap_or(end)].trim_end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_part_of_an_address_that_may_be_a_token_is_shown() {
        let secrets = [
            SecretString::from("https://oapi.dingtalk.com/robot/send?access_token=0123456789abcdef"),
            SecretString::from("https://open.feishu.cn/open-apis/bot/v2/hook/aaaa-bbbb-cccc"),
            SecretString::from("SECsecret"),
            SecretString::from(""),
        ];
        let answer = "token 0123456789abcdef is not\nknown to robot/send; aaaa-bbbb-cccc, v2, SECsecret";
        let shown = without_secrets(answer, &secrets);
        assert_eq!(shown, "token […] is not known to robot/send; […], v2, […]");
        assert_eq!(without_secrets("no token in https://host", &secrets), "no token in https://host");
        assert_eq!(without_secrets(&"志".repeat(300), &[]), format!("{}…", "志".repeat(200)));
    }

    proptest! {
        #[test]
        fn what_is_cut_fits_and_is_a_beginning(text in "\\PC{0,60}(\n\\PC{0,20}){0,3}", bytes in 8_usize..80) {
            let short = cut(&text, bytes);
            prop_assert!(short.len() <= bytes);
            match short.strip_suffix("\n…") {
                Some(kept) if short != text => prop_assert!(text.starts_with(kept)),
                _ => prop_assert_eq!(short, text),
            }
        }
    }
}
