//! Changes who can read what is stored from now on: a new revision of the config.
//!
//! *Order.* Signature, then config, under a name of its own: the highest revision is in force. *Crash.* A signature
//! without its config burns a number: the next try takes a higher one.
//!
//! What was sealed before stays sealed to whom it was: packs are never rewritten.

use super::{
    Maintain, Repository,
    format::{Config, FORMAT, layout},
    unseal_seed,
};
use crate::{
    crypt::{Identities, Recipients},
    error::{Context, ExitCode, Failure, Result},
    store::StoreError,
};

impl Repository<Maintain> {
    /// Seals everything from now on to these readers. `opens` opens the chunker's seed, which is sealed anew: the
    /// host's index key or a recovery identity.
    pub async fn rotate(
        &self,
        data_recipients: Vec<String>,
        index_recipients: Vec<String>,
        opens: &Identities,
    ) -> Result<Config> {
        let meta = Recipients::parse(&data_recipients)?.and(&Recipients::parse(&index_recipients)?);
        let seed = unseal_seed(&self.core.config.chunker, opens)?;
        let mut config = self.core.config.clone();
        config.format = FORMAT;
        config.revision = self.next_revision().await?;
        config.chunker.seed_sealed = hex::encode(meta.seal(format!("{seed:016x}").as_bytes())?);
        config.data_recipients = data_recipients;
        config.index_recipients = index_recipients;
        config.signers = vec![self.access.signing.public()];
        let bytes = serde_json::to_vec_pretty(&config)
            .failed(ExitCode::Failed, || "the config cannot be written".to_owned())?;
        let comment =
            format!("lifeboat config repository={} revision={}", config.repository, config.revision);
        let signature = self.access.signing.sign(&bytes, &comment)?;
        let key = layout::config_revision(config.revision);
        for (key, bytes) in [(layout::signature(&key), signature.into()), (key, bytes.into())] {
            match self.core.put(self.access.put.as_ref(), &key, bytes).await {
                Err(StoreError::Exists { .. }) => return Err(already_there(config.revision)),
                other => other?,
            }
        }
        self.core.witness.saw_config(&config.repository, config.revision)?;
        Ok(config)
    }

    /// Returns a revision that nobody has used; a run that died may have left a signature and nothing else.
    async fn next_revision(&self) -> Result<u32> {
        let listed = self.core.get.list(layout::CONFIG_PREFIX).await?;
        let used = listed.iter().filter_map(|object| {
            layout::config_of(&layout::signed_by(&object.key).unwrap_or_else(|| object.key.clone()))
        });
        Ok(used.max().unwrap_or_default() + 1)
    }
}

fn already_there(revision: u32) -> Failure {
    Failure::new(ExitCode::Busy, format!("revision {revision} of the config is there already"))
        .hint("Somebody else changed the keys just now: look at `lifeboat keys list`.")
}
