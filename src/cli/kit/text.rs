//! The sheet as text, for terminals and for printers that know nothing else.

use std::fmt::Write as _;

use super::sheet::{Block, CODE, Languages, Sheet, TITLE};

/// Writes the page. Its last part is what the code of the printed page would say.
pub(super) fn page(sheet: &Sheet, languages: Languages) -> String {
    let mut text = format!("{}: {}\n", languages.line(TITLE), sheet.stack);
    for section in &sheet.sections {
        // Writing to a text cannot fail.
        let _ = write!(text, "\n== {} ==\n", languages.line(section.heading));
        for block in &section.blocks {
            text.push('\n');
            match block {
                Block::Prose(words) => {
                    for (_, words) in languages.of(*words) {
                        let _ = writeln!(text, "{words}");
                    }
                }
                Block::Facts(facts) => {
                    for (name, values) in facts {
                        let _ = writeln!(text, "{}:", languages.line(*name));
                        text.push_str(&indented(values));
                    }
                }
                Block::Lines(lines) => text.push_str(&indented(lines)),
                Block::Blank => text.push_str("    ________________________________________\n"),
            }
        }
    }
    for (_, words) in languages.of(CODE) {
        let _ = write!(text, "\n{words}");
    }
    let _ = write!(text, "\n\n    {}\n", sheet.code);
    text
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| ["    ", line, "\n"].concat()).collect()
}
