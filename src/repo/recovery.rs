//! What every repository carries for a person without this program: a text and a script; and what the script needs of
//! a repository, as files.
//!
//! *Order.* Whoever fetches has a snapshot whose refs were believed. *Crash.* Nothing here changes the store; a folder
//! that was not filled to its end has no use.
//!
//! *Limits.* [`FETCHES_MAX`] objects are fetched at the same time, [`PIECE_BYTES`] of each.

use std::path::Path;

use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::{fs, io::AsyncWriteExt};

use super::{
    Repository,
    format::{Refs, layout},
    marks,
};
use crate::{
    error::{Context, ExitCode, Result},
    names::Key,
};

/// The text.
const RECOVERY: &str = include_str!("RECOVERY.md");
/// The script.
const RECOVER: &str = include_str!("recover.sh");
/// The script's name in a repository.
pub const SCRIPT: &str = "recover.sh";
/// SHA-256 of the scripts that earlier versions put into repositories.
const EARLIER: [&str; 5] = [
    "b9c5319cd7dfbd611337d292d83e174c6d02aa860d3b5a28e39c8954eb48f73a",
    "88eca29f57dccaf7f11785c0653bb1ae695f002f43e724e55113281c5d039272",
    "57f8880604fd9d46088113b184b84b82e2350b61f7310f2795eb0049ef8fc4a5",
    "59c3fa892fcafce4d7fc03011a8d2b6271b386f9ef8b403db89fcd5e35a3367d",
    "25c7487c81a146b46bce7d8e6bb31665f7241ee90af652c5b38c853a87c3f600",
];
/// Objects that are fetched at the same time.
const FETCHES_MAX: usize = 4;
/// Bytes of an object that are fetched at once.
const PIECE_BYTES: u64 = 8 << 20;

/// Returns the names and contents of the files.
pub fn files() -> [(&'static str, &'static str); 2] {
    [("RECOVERY.md", RECOVERY), (SCRIPT, RECOVER)]
}

/// Returns the key of a file.
pub fn key(name: &str) -> Key {
    Key::new(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns whether a script is one that lifeboat puts into repositories. Nobody signs it there, so whoever runs it with
/// an identity should know.
pub fn is_own_script(bytes: &[u8]) -> bool {
    bytes == RECOVER.as_bytes() || EARLIER.contains(&hex::encode(Sha256::digest(bytes)).as_str())
}

impl<A> Repository<A> {
    /// Copies what a person needs for recovering one snapshot by hand into an empty folder, as it lies in the store.
    /// What is not in the store is not in the folder either.
    pub async fn fetch_for_recovery(&self, refs: &Refs, into: &Path) -> Result<()> {
        let get = self.core.get.as_ref();
        let mut wanted = Vec::new();
        let of_snapshot =
            [layout::REFS, marks::TOMBSTONES].map(|prefix| format!("{prefix}{}.", refs.snapshot));
        for prefix in [layout::CONFIG_PREFIX.to_owned()].into_iter().chain(of_snapshot) {
            wanted.extend(get.list(&prefix).await?.into_iter().map(|object| object.key));
        }
        wanted.extend(files().map(|(name, _)| key(name)));
        wanted.push(layout::manifest(&refs.snapshot));
        wanted.extend(refs.packs.keys().map(|pack| layout::pack(*pack)));
        let fetched = stream::iter(wanted).map(|key| self.fetch(key, into)).buffer_unordered(FETCHES_MAX);
        fetched.try_collect().await
    }

    async fn fetch(&self, key: Key, into: &Path) -> Result<()> {
        let Some(size_bytes) = self.core.get.size(&key).await? else { return Ok(()) };
        let path = into.join(key.as_str());
        let what = || format!("`{}` cannot be written", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).await.failed(ExitCode::Failed, what)?;
        }
        let mut file = fs::File::create_new(&path).await.failed(ExitCode::Failed, what)?;
        let mut at = 0;
        while at < size_bytes {
            let end = size_bytes.min(at + PIECE_BYTES);
            let piece = self.core.get.get(&key, Some(at..end)).await?;
            file.write_all(&piece).await.failed(ExitCode::Failed, what)?;
            at = end;
        }
        file.flush().await.failed(ExitCode::Failed, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_of_this_and_of_earlier_versions_are_known_and_no_other_is() {
        let golden = [
            include_str!("../../tests/golden/format-1/repo/recover.sh"),
            include_str!("../../tests/golden/format-2/repo/recover.sh"),
            include_str!("../../tests/golden/format-3/repo/recover.sh"),
        ];
        for own in golden.into_iter().chain([RECOVER]) {
            assert!(is_own_script(own.as_bytes()));
        }
        assert!(!is_own_script(format!("{RECOVER}\n").as_bytes()) && !is_own_script(b""));
    }
}
