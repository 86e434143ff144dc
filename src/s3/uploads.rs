//! Uploads in parts that a restore has begun, noted on this host: what a killed one left the next one throws away.
//!
//! Parts of an upload that nobody completes cost money and are seen by nobody, and a listing of uploads does not tell
//! whose they are. So a restore writes down each one's id before its first part, and only what is written down is
//! aborted. Each run has a file of its own and holds the kernel's lock on it as long as it lives: a file that can be
//! locked is a dead run's.
//!
//! *Order.* The file is locked before it gets the name by which others find it.
//!
//! *Crash.* The file stays, and so does one of which an upload could not be aborted. Where the host goes down, the last
//! lines may not have reached its disk: those parts stay until the bucket's own rule for incomplete uploads sweeps
//! them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::client::{Server, Told};
use crate::error::{Context, ExitCode, Result};

/// The end of the names of files with notes.
const SUFFIX: &str = ".uploads";

/// An upload, as it is noted.
#[derive(Serialize, Deserialize)]
struct Line {
    endpoint: String,
    bucket: String,
    key: String,
    id: String,
}

/// The uploads of one run; without a file where nothing is noted.
#[derive(Clone, Default)]
pub(super) struct Uploads(Option<Arc<Mutex<Note>>>);

struct Note {
    path: PathBuf,
    file: File,
    endpoint: String,
    open: BTreeSet<String>,
}

impl Uploads {
    /// Begins the notes of a run in a folder, which is made.
    pub(super) fn begin(folder: &Path, server: &Server) -> Result<Self> {
        let what = || format!("failed to note uploads in `{}`", folder.display());
        fs::create_dir_all(folder).failed(ExitCode::Failed, what)?;
        let file = tempfile::Builder::new().prefix("run-").suffix(".new").tempfile_in(folder);
        let file = file.failed(ExitCode::Failed, what)?;
        file.as_file().try_lock().failed(ExitCode::Failed, what)?;
        let path = file.path().with_extension(&SUFFIX[1..]);
        let file = file.persist_noclobber(&path).failed(ExitCode::Failed, what)?;
        let endpoint = server.endpoint().to_owned();
        Ok(Self(Some(Arc::new(Mutex::new(Note { path, file, endpoint, open: BTreeSet::new() })))))
    }

    /// Notes an upload. That a note cannot be written ends no restore.
    fn begun(&self, bucket: &str, key: &str, id: &str) {
        let Some(note) = &self.0 else { return };
        let mut note = note.lock().unwrap_or_else(PoisonError::into_inner);
        let line = Line {
            endpoint: note.endpoint.clone(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            id: id.to_owned(),
        };
        if let Ok(line) = serde_json::to_string(&line) {
            writeln!(note.file, "{line}").ok();
        }
        note.open.insert(id.to_owned());
    }

    /// Takes an upload as ended: it was completed or aborted.
    fn ended(&self, id: &str) {
        if let Some(note) = &self.0 {
            note.lock().unwrap_or_else(PoisonError::into_inner).open.remove(id);
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if self.open.is_empty() {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// An upload under way; dropped before it is completed, it is aborted.
pub(super) struct Upload {
    server: Server,
    uploads: Uploads,
    pub(super) bucket: String,
    pub(super) key: String,
    /// `None` where it is over, or where the server gave none.
    pub(super) id: Option<String>,
}

impl Upload {
    /// Notes an upload that a server has begun.
    pub(super) fn begun(
        server: &Server,
        uploads: &Uploads,
        (bucket, key): (&str, &str),
        id: Option<&str>,
    ) -> Self {
        if let Some(id) = id {
            uploads.begun(bucket, key, id);
        }
        Self {
            server: server.clone(),
            uploads: uploads.clone(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            id: id.map(str::to_owned),
        }
    }

    /// Takes it as completed.
    pub(super) fn completed(&mut self) {
        if let Some(id) = self.id.take() {
            self.uploads.ended(&id);
        }
    }

    /// Throws the parts away.
    ///
    /// Best effort: parts that stay are invisible, and swept by the next restore from this host.
    pub(super) async fn abort(&mut self) {
        if let Some(id) = self.id.take()
            && abort(&self.server, &self.bucket, &self.key, &id).await != Abort::Failed
        {
            self.uploads.ended(&id);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) else { return };
        let request = self.server.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key);
        runtime.spawn(request.upload_id(id).send());
    }
}

/// Aborts what dead runs have left on this server; returns how many uploads.
pub(super) async fn sweep(folder: &Path, server: &Server) -> u64 {
    let mut aborted = 0;
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| path.to_string_lossy().ends_with(SUFFIX)) {
        let Ok(file) = File::open(&path) else { continue };
        // A run that lives holds it.
        if file.try_lock().is_err() {
            continue;
        }
        let mut is_done = true;
        for line in BufReader::new(&file).lines().map_while(std::result::Result::ok) {
            // The last line of a run that was killed may be a part of one.
            let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
            if line.endpoint != server.endpoint() {
                is_done = false;
                continue;
            }
            match abort(server, &line.bucket, &line.key, &line.id).await {
                Abort::Done => aborted += 1,
                Abort::NotThere => {}
                Abort::Failed => is_done = false,
            }
        }
        if is_done {
            fs::remove_file(&path).ok();
        }
    }
    aborted
}

/// What became of an upload that was to be aborted.
#[derive(Debug, PartialEq, Eq)]
enum Abort {
    /// Its parts are gone.
    Done,
    /// It was completed or aborted before.
    NotThere,
    /// It may still be there.
    Failed,
}

/// Aborts an upload.
async fn abort(server: &Server, bucket: &str, key: &str, id: &str) -> Abort {
    let request = server.client.abort_multipart_upload().bucket(bucket).key(key).upload_id(id);
    match request.send().await {
        Ok(_) => Abort::Done,
        Err(error) if Told::from(&error).is_some_and(|told| told.is_absent()) => Abort::NotThere,
        Err(_) => Abort::Failed,
    }
}
