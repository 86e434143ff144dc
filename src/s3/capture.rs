//! The bytes of an answer as they came, for what the SDK reads over: elements that it does not know, and documents
//! that are kept as the server wrote them.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::AfterDeserializationInterceptorContextRef,
    },
    error::BoxError,
};
use quick_xml::{Reader, events::Event};

/// Keeps the body of an answer that is no stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Capture(Arc<Mutex<String>>);

impl Capture {
    /// Returns the body of the last answer.
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Intercept for Capture {
    fn name(&self) -> &'static str {
        "lifeboat capture"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let bytes = context.response().body().bytes().unwrap_or_default();
        let text = String::from_utf8_lossy(bytes).into_owned();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
        Ok(())
    }
}

/// Returns which elements of these names stand right below the root of a document, in their order, each as its name's
/// place; `None` where the document is not whole.
///
/// The SDK takes what it cannot read for the end of a document, and the objects behind that would count as deleted.
pub(super) fn below_root(document: &str, names: &[&str]) -> Option<Vec<usize>> {
    let mut reader = Reader::from_str(document);
    let (mut depth, mut has_root, mut found) = (0_usize, false, Vec::new());
    loop {
        let (tag, is_open) = match reader.read_event().ok()? {
            Event::Start(tag) => (tag, true),
            Event::Empty(tag) => (tag, false),
            Event::End(_) => {
                depth = depth.checked_sub(1)?;
                continue;
            }
            Event::Eof => return (depth == 0 && has_root).then_some(found),
            _ => continue,
        };
        has_root = true;
        if depth == 1 {
            found.extend(names.iter().position(|name| tag.local_name().as_ref() == *name));
        }
        depth += usize::from(is_open);
    }
}

/// Returns whether a document is a root without anything in it; one that is not whole is none.
pub(super) fn is_childless(document: &str) -> bool {
    let mut reader = Reader::from_str(document);
    let mut depth = 0_usize;
    loop {
        match reader.read_event() {
            Ok(Event::Start(_)) if depth == 0 => depth = 1,
            Ok(Event::Start(_)) | Err(_) => return false,
            Ok(Event::Empty(_)) => return depth == 0,
            Ok(Event::End(_)) => return true,
            Ok(Event::Eof) => return document.trim().is_empty(),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{below_root, is_childless};

    #[test]
    fn a_document_is_empty_only_if_nothing_is_in_it() {
        for empty in ["", "<N/>", "<?xml version='1.0'?><N xmlns='x'> </N>", "<N></N>"] {
            assert!(is_childless(empty), "{empty}");
        }
        for other in ["<N><EventBridgeConfiguration/></N>", "<N><Q><Event>e</Event></Q></N>", "<N", "none"] {
            assert!(!is_childless(other), "{other}");
        }
    }

    #[test]
    fn only_a_whole_document_tells_its_elements() {
        let page =
            "<?xml version='1.0'?><L xmlns='x'><Name>b</Name><C><Key>a</Key><C/></C><C/><D>&lt;C&gt;</D></L>";
        assert_eq!(below_root(page, &["C"]), Some(vec![0, 0]));
        assert_eq!(below_root(page, &["D", "C"]), Some(vec![1, 1, 0]));
        for broken in ["", "<L><C></C>", "<L><C></L>", "<L><C/><", "<L></L></L>", "no document"] {
            assert_eq!(below_root(broken, &["C"]), None, "{broken}");
        }
    }
}
