//! Which keys a database has: what a drill asks of what it restored.
//!
//! *Limits.* [`BATCH_KEYS`] keys are on their way at a time, and one page of a walk, which is about as many.

use std::sync::Arc;

use super::{control::Control, server::Server};
use crate::{error::Result, names::SourceName, policy::RedisConfig};

/// Keys that are asked about at once.
pub const BATCH_KEYS: usize = 500;

/// The keys of one database of a server.
pub struct Keys {
    control: Control,
}

impl Keys {
    /// Connects to the server and chooses the database.
    pub async fn open(name: &SourceName, config: &RedisConfig, db: u32) -> Result<Self> {
        let server = Arc::new(Server::of(name, config)?);
        let mut control = Control::open(&server).await?;
        let _: () = control.ask(&["SELECT", &db.to_string()]).await?;
        Ok(Self { control })
    }

    /// Returns of each of `keys`, in their order, whether it is there.
    pub async fn are_there(&mut self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<bool>> {
        let mut all = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH_KEYS) {
            let mut questions = ::redis::pipe();
            for key in batch {
                questions.cmd("EXISTS").arg(key.as_ref());
            }
            let answers: Vec<u8> = self.control.ask_all("EXISTS", &questions).await?;
            all.extend(answers.into_iter().map(|count| count > 0));
        }
        Ok(all)
    }

    /// Walks the keys that match `pattern`, in Redis's own language of patterns, and hands each to `hear`: in no
    /// order, and some more than once, as `SCAN` does.
    pub async fn walk(&mut self, pattern: &[u8], mut hear: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        let mut cursor = 0_u64;
        loop {
            let mut question = ::redis::pipe();
            question.cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(BATCH_KEYS);
            let ((next, page),): ((u64, Vec<Vec<u8>>),) = self.control.ask_all("SCAN", &question).await?;
            page.into_iter().try_for_each(&mut hear)?;
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

/// Returns the pattern of Redis that matches every key that begins with `prefix`.
pub fn beginning_with(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]^-\\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_as_it_stands() {
        assert_eq!(beginning_with(b""), b"*");
        assert_eq!(beginning_with(b"session:"), b"session:*");
        assert_eq!(beginning_with(b"a*[b]?\\"), b"a\\*\\[b\\]\\?\\\\*");
    }
}
