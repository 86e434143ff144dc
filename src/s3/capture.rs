//! The bytes of an answer as they came, for what the SDK reads over: elements that it does not know, and documents
//! that are kept as the server wrote them.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::AfterDeserializationInterceptorContextRef,
    },
    error::BoxError,
};

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
