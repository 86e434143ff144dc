//! The full report of a drill: its files in one sealed `tar.zst.age`, for they name tables, rows and keys.
//!
//! `age -d -i identity.txt DRILL.tar.zst.age | zstd -d | tar -x` opens it without lifeboat.
//!
//! *Limits.* All files together have at most [`PLAIN_BYTES_MAX`] bytes, and there are at most [`FILES_MAX`]. What
//! exceeds that is damage.

use std::{collections::BTreeSet, io::Read};

use crate::{
    crypt::{Identities, Recipients},
    error::{Context, ExitCode, Failure, Result},
    repo::{
        format,
        pack::{BLOCK, append_member},
    },
};

/// Bytes of the tar that the files are in.
const PLAIN_BYTES_MAX: usize = 16 << 20;
/// Bytes that the sealed object may have: what does not compress grows a little.
pub(super) const SEALED_BYTES_MAX: u64 = (PLAIN_BYTES_MAX as u64) + (1 << 20);
const FILES_MAX: usize = 32;
/// Bytes of a file's name.
const NAME_BYTES_MAX: usize = 100;

/// Seals files to `readers`.
pub(super) fn seal(files: &[(String, Vec<u8>)], readers: &Recipients) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    let mut names = BTreeSet::new();
    for (name, content) in files {
        if !is_name(name) || !names.insert(name) {
            return Err(Failure::new(ExitCode::Failed, format!("a report has no file `{name}`")));
        }
        append_member(&mut tar, name, content)?;
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    if tar.len() > PLAIN_BYTES_MAX || files.len() > FILES_MAX {
        let what = format!("the report of a drill has {} files and {} bytes", files.len(), tar.len());
        return Err(Failure::new(ExitCode::Failed, what)
            .because(format!("it may have {FILES_MAX} and {PLAIN_BYTES_MAX}")));
    }
    readers.seal(&format::pack_meta(&tar)?)
}

/// Opens what [`seal`] made; `what` names it in failures.
pub(super) fn open(sealed: &[u8], identities: &Identities, what: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let damaged = || format!("`{what}` is not the tar it should be");
    let decoder = zstd::stream::read::Decoder::new(identities.reader(sealed, what)?)
        .failed(ExitCode::Damage, damaged)?;
    let mut plain = Vec::new();
    decoder.take(PLAIN_BYTES_MAX as u64 + 1).read_to_end(&mut plain).failed(ExitCode::Damage, damaged)?;
    if plain.len() > PLAIN_BYTES_MAX {
        return Err(Failure::new(ExitCode::Damage, damaged()).because("it is too large"));
    }
    members(&plain, what)
}

/// Reads the files out of a tar.
pub fn members(plain: &[u8], what: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let damaged = || format!("`{what}` is not the tar it should be");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut archive = tar::Archive::new(plain);
    for member in archive.entries().failed(ExitCode::Damage, damaged)?.raw(true) {
        let mut member = member.failed(ExitCode::Damage, damaged)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let is_new = files.iter().all(|(other, _)| *other != name);
        if !member.header().entry_type().is_file() || !is_name(&name) || !is_new || files.len() == FILES_MAX {
            return Err(Failure::new(ExitCode::Damage, damaged()).because(format!("member `{name}`")));
        }
        let mut content = Vec::new();
        member.read_to_end(&mut content).failed(ExitCode::Damage, damaged)?;
        files.push((name, content));
    }
    Ok(files)
}

/// Returns whether a file of a report may have this name: it is written into a folder as it is.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::pair;

    fn file(name: &str, content: &[u8]) -> (String, Vec<u8>) {
        (name.to_owned(), content.to_vec())
    }

    fn sealed(tar: &[u8], recipients: &Recipients) -> Vec<u8> {
        recipients.seal(&format::pack_meta(tar).unwrap()).unwrap()
    }

    #[test]
    fn the_files_of_a_report_come_back_as_they_were() {
        let (identities, recipients) = pair();
        let files =
            [file("report.json", b"{}"), file("report.json.minisig", b""), file("junit.xml", &[7; 5000])];
        let sealed = seal(&files, &recipients).unwrap();
        assert_eq!(open(&sealed, &identities, "x").unwrap(), files);
        assert_eq!(open(&sealed, &pair().0, "x").unwrap_err().exit(), ExitCode::KeyRefused);
    }

    #[test]
    fn a_report_that_climbs_repeats_itself_or_has_no_end_is_refused() {
        let (identities, recipients) = pair();
        let long = "n".repeat(101);
        for name in ["", "../x", "a/b", ".hidden", "a b", "图", long.as_str()] {
            assert!(seal(&[file(name, b"x")], &recipients).is_err(), "{name}");
        }
        assert!(seal(&[file("a", b"1"), file("a", b"2")], &recipients).is_err());
        assert!(seal(&[file("a", &vec![0; PLAIN_BYTES_MAX])], &recipients).is_err());
        let many: Vec<_> = (0..=FILES_MAX).map(|n| file(&format!("f{n}"), b"")).collect();
        assert!(seal(&many, &recipients).is_err());
        let refused = |tar: &[u8]| {
            let failure = open(&sealed(tar, &recipients), &identities, "x").unwrap_err();
            assert_eq!(failure.exit(), ExitCode::Damage);
        };
        for names in [&["a/b"][..], &["a", "a"]] {
            let mut tar = Vec::new();
            for name in names {
                append_member(&mut tar, name, b"x").unwrap();
            }
            tar.resize(tar.len() + 2 * BLOCK, 0);
            refused(&tar);
        }
        refused(&vec![0; PLAIN_BYTES_MAX + 1]);
        refused(b"no tar at all");
        assert_eq!(open(b"nothing sealed", &identities, "x").unwrap_err().exit(), ExitCode::Damage);
    }
}
