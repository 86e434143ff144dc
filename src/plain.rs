//! Values as people read them. Text may hold whatever a stranger chose to put there: it is made harmless, looks like
//! what it is and ends where it ends.

/// Writes `81,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns `text` on one line, with what cannot be seen or would move its surroundings as `\u{…}`, and cut when it has
/// more than `chars_max` characters. What was cut off is counted: `… (+9,000)`.
pub fn visible(text: &str, chars_max: usize) -> String {
    let (shown, cut) = match text.char_indices().nth(chars_max) {
        Some((end, _)) => text.split_at(end),
        None => (text, ""),
    };
    let mut out = String::with_capacity(shown.len());
    shown.chars().for_each(|c| push(&mut out, c));
    if !cut.is_empty() {
        out.extend(["… (+", &grouped(cut.chars().count() as u64), ")"]);
    }
    out
}

/// Returns bytes on one line, of which [`visible`] could not tell text from what is none: a backslash is doubled, and
/// what is no text stands as `\xff`. Cut to `chars_max` characters.
pub fn of_bytes(bytes: &[u8], chars_max: usize) -> String {
    // No character has more than four bytes.
    let begin = &bytes[..bytes.len().min(chars_max.saturating_mul(4))];
    let mut out = String::new();
    for chunk in begin.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                out.push(c);
            }
            push(&mut out, c);
        }
        out.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    let cut = out.char_indices().nth(chars_max).map(|(cut, _)| cut);
    if let Some(cut) = cut {
        out.truncate(cut);
    }
    if cut.is_some() || begin.len() < bytes.len() {
        out.push('…');
    }
    out
}

fn push(out: &mut String, c: char) {
    if is_hidden(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// Returns `text` so that HTML and XML take it for text, also between quotes.
pub fn escaped(text: &str) -> String {
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

    const CHARS_MAX: usize = 1000;

    #[test]
    fn a_count_is_grouped() {
        assert_eq!([0, 999, 1000, 81_234_567].map(grouped), ["0", "999", "1,000", "81,234,567"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_told_from_text_that_looks_like_it() {
        assert_eq!(
            of_bytes(b"a\x00\xff\n\\xff \xe5\xaf\x86\xe2\x80\xae", 100),
            "a\\u{0}\\xff\\n\\\\xff 密\\u{202e}"
        );
        assert_eq!((of_bytes(b"abcdef", 3), of_bytes(b"abc", 3)), ("abc…".to_owned(), "abc".to_owned()));
        let long = of_bytes("密".repeat(100_000).as_bytes(), 300);
        assert_eq!((long.chars().count(), long.ends_with("密…")), (301, true));
    }

    #[test]
    fn what_cannot_be_seen_is_shown_as_what_it_is() {
        assert_eq!(
            visible("a\0b\nc\td\u{202e}e\u{feff}\u{ffff}", CHARS_MAX),
            r"a\u{0}b\nc\td\u{202e}e\u{feff}\u{ffff}"
        );
        assert_eq!(visible("志航 Ünï שלום 🛟", CHARS_MAX), "志航 Ünï שלום 🛟", "letters of any script stay");
    }

    #[test]
    fn a_very_long_line_is_cut_and_the_rest_counted() {
        let shown = visible(&"é".repeat(10_000), CHARS_MAX);
        assert_eq!(shown.chars().count(), CHARS_MAX + "… (+9,000)".chars().count());
        assert!(shown.ends_with("é… (+9,000)"));
        assert_eq!(visible(&"é".repeat(CHARS_MAX), CHARS_MAX), "é".repeat(CHARS_MAX));
    }

    proptest! {
        #[test]
        fn what_is_shown_ends_no_text_and_no_line(text in any::<String>()) {
            let shown = escaped(&visible(&text, CHARS_MAX));
            let has_mark = |c: char| matches!(c, '<' | '>' | '"' | '\'') || is_hidden(c);
            prop_assert!(!shown.contains(has_mark), "{shown:?}");
            let mut ends = shown.split('&').skip(1);
            prop_assert!(ends.all(|rest| rest.split(';').next().is_some_and(|name| name.len() <= 4)));
        }
    }
}
