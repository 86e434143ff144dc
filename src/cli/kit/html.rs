//! The sheet as a page to print: one file, no script, nothing from elsewhere.

use std::fmt::Write as _;

use qrcode::{Color, EcLevel, QrCode};

use super::sheet::{Block, CODE, Languages, Sheet, TITLE, Words};
use crate::{
    error::{Context, ExitCode, Result},
    plain::escaped,
};

/// Light squares that a reader needs around a code.
const QUIET: usize = 4;

const STYLE: &str = "\
@page { size: A4; margin: 14mm }
body { font: 10pt/1.4 system-ui, 'Noto Sans CJK SC', 'Microsoft YaHei', sans-serif; color: #000; max-width: 182mm; \
margin: 0 auto }
h1 { font-size: 16pt; margin: 0 }
h2 { font-size: 11pt; margin: 5mm 0 1mm; border-bottom: 0.3mm solid #000; break-after: avoid }
.words { display: flex; gap: 5mm; margin: 1mm 0 }
.words p { flex: 1; margin: 0 }
dl { display: grid; grid-template-columns: 42mm 1fr; gap: 0.5mm 3mm; margin: 1mm 0 }
dt { font-weight: 600 }
dd { margin: 0 }
dd, pre { font: 8.5pt/1.4 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap }
pre { margin: 1mm 0; padding: 1.5mm 2mm; border: 0.2mm solid #888; break-inside: avoid }
.blank { height: 8mm; border-bottom: 0.2mm solid #000 }
.code { break-inside: avoid; margin-top: 5mm; display: flex; gap: 5mm; align-items: end }
.code svg { width: 48mm; height: 48mm; flex: none }
";

/// Writes the page.
pub(super) fn page(sheet: &Sheet, languages: Languages) -> Result<String> {
    let code = code(&sheet.code)?;
    let language = if languages.en { "en" } else { "zh-CN" };
    let title = format!("{}: {}", languages.line(TITLE), sheet.stack);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"{language}\">\n<meta charset=\"utf-8\">\n<title>{0}</title>\n\
         <style>\n{STYLE}</style>\n<h1>{0}</h1>\n",
        escaped(&title)
    );
    for section in &sheet.sections {
        html.extend(["<h2>", &escaped(&languages.line(section.heading)), "</h2>\n"]);
        section.blocks.iter().for_each(|block| html.push_str(&shown(block, languages)));
    }
    html.extend(["<div class=\"code\">\n", &code, &words(CODE, languages), "</div>\n</html>\n"]);
    Ok(html)
}

fn shown(block: &Block, languages: Languages) -> String {
    match block {
        Block::Prose(prose) => words(*prose, languages),
        Block::Facts(facts) => {
            let fact = |(name, values): &(Words, Vec<String>)| {
                let values: Vec<String> = values.iter().map(|value| escaped(value)).collect();
                // The values of one name stay in the second column.
                let values = values.join("</dd><dt></dt><dd>");
                ["<dt>", &escaped(&languages.line(*name)), "</dt><dd>", &values, "</dd>\n"].concat()
            };
            format!("<dl>\n{}</dl>\n", facts.iter().map(fact).collect::<String>())
        }
        Block::Lines(lines) => format!("<pre>{}</pre>\n", escaped(&lines.join("\n"))),
        Block::Blank => "<div class=\"blank\"></div>\n".to_owned(),
    }
}

/// Writes prose, the languages side by side.
fn words(words: Words, languages: Languages) -> String {
    let paragraphs = languages.of(words).into_iter();
    let paragraphs =
        paragraphs.map(|(language, words)| format!("<p lang=\"{language}\">{}</p>", escaped(words)));
    format!("<div class=\"words\">{}</div>\n", paragraphs.collect::<String>())
}

/// Draws a QR code, a path of one rectangle for each run of dark squares.
fn code(text: &str) -> Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M)
        .or_else(|_| QrCode::with_error_correction_level(text, EcLevel::L))
        .failed(ExitCode::Failed, || "the facts do not fit into a QR code".to_owned())
        .map_err(|failure| failure.hint("Print the sheet with --text, which needs none."))?;
    let width = code.width();
    let colors = code.to_colors();
    let mut path = String::new();
    for (y, row) in colors.chunks(width).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|left, right| left == right) {
            if run[0] == Color::Dark {
                let length = run.len();
                let _ = write!(path, "M{} {}h{length}v1h-{length}z", x + QUIET, y + QUIET);
            }
            x += run.len();
        }
    }
    let side = width + 2 * QUIET;
    Ok(format!(
        "<svg viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\" role=\"img\" aria-label=\"QR code\">\
         <path d=\"{path}\"/></svg>\n"
    ))
}
