//! Text that a stranger may have chosen, made harmless: it looks like what it is and ends where it ends.

use crate::policy::grouped;

/// Characters of one thing that is shown; `report.json` has all of it.
const CHARS_MAX: usize = 1_000;

/// Returns `text` on one line, with what cannot be seen or would move its surroundings as `\u{…}`, and cut when it is
/// very long. What was cut off is counted: `… (+9,000)`.
pub(super) fn visible(text: &str) -> String {
    let (shown, cut) = match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => text.split_at(end),
        None => (text, ""),
    };
    let mut out = String::with_capacity(shown.len());
    for c in shown.chars() {
        if is_hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if !cut.is_empty() {
        out.extend(["… (+", &grouped(cut.chars().count() as u64), ")"]);
    }
    out
}

/// Returns `text` so that HTML and XML take it for text, also between quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// Returns whether a character has no look of its own: control characters (XML cannot say most of them), line ends,
/// what changes the direction of its neighbours, what has no width, and what is no character at all.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
        || matches!(u32::from(c) & 0xffff, 0xfffe | 0xffff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown_as_what_it_is() {
        assert_eq!(visible("a\0b\nc\td\u{202e}e\u{feff}\u{ffff}"), r"a\u{0}b\nc\td\u{202e}e\u{feff}\u{ffff}");
        assert_eq!(visible("志航 Ünï שלום 🛟"), "志航 Ünï שלום 🛟", "letters of any script stay");
    }

    #[test]
    fn a_very_long_line_is_cut_and_the_rest_counted() {
        let shown = visible(&"é".repeat(10_000));
        assert_eq!(shown.chars().count(), CHARS_MAX + "… (+9,000)".chars().count());
        assert!(shown.ends_with("é… (+9,000)"));
        assert_eq!(visible(&"é".repeat(CHARS_MAX)), "é".repeat(CHARS_MAX));
    }

    proptest! {
        #[test]
        fn what_is_shown_ends_no_text_and_no_line(text in any::<String>()) {
            let shown = escaped(&visible(&text));
            let has_mark = |c: char| matches!(c, '<' | '>' | '"' | '\'') || is_hidden(c);
            prop_assert!(!shown.contains(has_mark), "{shown:?}");
            let mut ends = shown.split('&').skip(1);
            prop_assert!(ends.all(|rest| rest.split(';').next().is_some_and(|name| name.len() <= 4)));
        }
    }
}
