//! The JSON face: one document on stdout, with its schema's name first.

use serde_json::{Value, json};

use super::say;
use crate::error::Failure;

/// Prints a document.
pub fn print(document: &Value) {
    say(&document.to_string());
}

/// Adds the schema's name to a verb's document.
pub fn document(verb: &str, mut facts: Value) -> Value {
    if let Some(map) = facts.as_object_mut() {
        map.insert("schema".to_owned(), format!("lifeboat.{verb}/1").into());
    }
    facts
}

/// Returns the document of a failure.
pub fn failure(failure: &Failure) -> Value {
    document(
        "failure",
        json!({
            "exit": failure.exit().number(),
            "code": failure.exit().word(),
            "error": failure.chain(),
            "hints": failure.hints(),
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    #[test]
    fn a_failure_is_a_document_too() {
        let cause = std::io::Error::other("refused");
        let shown =
            failure(&Failure::new(ExitCode::SourceDown, "no answer").because(cause).hint("Start it."));
        insta::assert_snapshot!(shown, @r#"{"code":"source_down","error":["no answer","refused"],"exit":20,"hints":["Start it."],"schema":"lifeboat.failure/1"}"#);
    }
}
