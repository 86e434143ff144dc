//! Marks that are signed, and explanations among them: why a commit is gone or never came, so that its absence does
//! not look like a theft.
//!
//! *Order.* The signature of a mark lies in the store before the mark, so a mark that is there can be checked.
//! *Crash.* A signature without its mark burns a name and nothing else.

use bytes::Bytes;
use serde::Serialize;

use super::{
    core::Core,
    format::{self, FORMAT, layout},
    marks::{self, Forgotten, Tombstone},
};
use crate::{
    clock::Ground,
    crypt::SigningKey,
    error::{ExitCode, Failure, Result},
    names::Key,
    store::Put,
};

impl Core {
    /// Returns the objects of a mark: itself and its signature.
    pub(super) fn signed_mark<T: Serialize>(
        &self,
        signing: &SigningKey,
        key: &Key,
        mark: &T,
    ) -> Result<[(Key, Bytes); 2]> {
        let bytes = format::write(mark);
        let comment = format!("lifeboat mark repository={} {key}", self.config.repository);
        let signature = signing.sign(&bytes, &comment)?;
        Ok([(key.clone(), bytes.into()), (layout::signature(key), signature.into())])
    }

    /// Says why a commit is not there. Forgets nothing, whatever lies there.
    pub(super) async fn explain(
        &self,
        put: &dyn Put,
        signing: &SigningKey,
        commit: Forgotten,
        reason: &str,
        ground: &Ground,
    ) -> Result<()> {
        // Often nobody knows which snapshot it was; the name only has to be new.
        let snapshot = ground.id_at(ground.clock.now());
        let explanation = Tombstone {
            format: FORMAT,
            repository: self.config.repository.clone(),
            snapshot: snapshot.clone(),
            generation: 0,
            commit: Some(commit),
            reason: reason.to_owned(),
            at: ground.clock.now(),
        };
        let key = marks::upstream(&marks::tombstone(&snapshot, 0))
            .ok_or_else(|| Failure::new(ExitCode::Failed, "an explanation has no name"))?;
        let [mark, signature] = self.signed_mark(signing, &key, &explanation)?;
        for (key, bytes) in [signature, mark] {
            self.put(put, &key, bytes).await?;
        }
        Ok(())
    }
}
