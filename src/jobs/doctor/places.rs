//! Places: the repository, its copies, and the folders that a backup writes to on the way.

use std::{path::PathBuf, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{FOLDER_LIMIT, Looked, Looking, REPOSITORY, ask_folder, room};
use crate::{
    finding::{Finding, Status, laws},
    jobs::open,
    names::ByteCount,
    policy::{SourceKind, StoreConfig},
    repo::format::layout,
    store::{self, Opened, PROBES, probe::probe},
};

laws! {
    page "stores";
    SETTINGS = "store.settings",
        "the store can be opened",
        "Check `store` and `options` of this place.";
    THERE = "store.there",
        "there is a repository",
        "Check that the disk is mounted and that the policy names the right place.";
    TIME = "store.time",
        "a store can be tried out within three minutes",
        "The store does not answer: look at the network and at the service's own state.";
    STATE_DIR = "state_dir.writable",
        "the state folder can be written",
        "Set state_dir in the policy to a folder that this user may write.";
}

/// How long one store may take.
const LIMIT: Duration = Duration::from_mins(3);
/// How long it may take to list what a place holds.
const LIST_LIMIT: Duration = Duration::from_mins(1);

/// Looks at all places.
pub(super) async fn look(looking: Looking<'_>) -> Looked {
    let stack = looking.stack;
    let home = [Place {
        name: REPOSITORY,
        thing: REPOSITORY.to_owned(),
        config: &stack.repository.place,
        is_home: true,
    }];
    let copies = stack.offsites.iter().map(|offsite| Place {
        name: offsite.name.as_str(),
        thing: format!("offsite.{}", offsite.name),
        config: &offsite.place,
        is_home: false,
    });
    let places = home.into_iter().chain(copies).filter(|place| looking.takes(place.name));
    let places = join_all(places.map(|place| place.look(looking)));
    let (state_dir, spools, places) = tokio::join!(state_dir(looking), spools(looking), places);
    let mut looked = state_dir;
    for found in spools.into_iter().chain(places) {
        looked.findings.extend(found.findings);
        looked.store_is_down |= found.store_is_down;
        looked.rooms.extend(found.rooms);
        looked.stored_bytes.extend(found.stored_bytes);
    }
    looked
}

async fn state_dir(looking: Looking<'_>) -> Looked {
    let mut looked = Looked::default();
    if !looking.all() {
        return looked;
    }
    let folder = open::state_dir(looking.stack);
    let shown = folder.display().to_string();
    let tried = folder.clone();
    let write = move || -> std::io::Result<()> {
        std::fs::create_dir_all(&tried)?;
        tempfile::tempfile_in(&tried).map(drop)
    };
    match ask_folder(FOLDER_LIMIT, write).await {
        Some(Ok(())) => {
            looked.findings.push(STATE_DIR.ok(shown));
            looked.room(looking, "state_dir", "state_dir", folder).await;
        }
        Some(Err(error)) => looked.findings.push(STATE_DIR.broken(format!("{shown}: {error}"))),
        None => {
            let detail = format!("{shown}: nothing was heard for {} s", FOLDER_LIMIT.as_secs());
            looked.findings.push(STATE_DIR.found(Status::Unknown, detail));
        }
    }
    looked
}

/// Looks at the folders that dumps are kept in on their way.
async fn spools(looking: Looking<'_>) -> Vec<Looked> {
    let sources = looking.stack.sources.iter().filter(|source| looking.takes(source.name.as_str()));
    let spools = sources.filter_map(|source| match &source.kind {
        SourceKind::Redis(redis) => Some((&source.name, redis.spool_dir.clone()?)),
        _ => None,
    });
    let all = spools.map(async |(source, folder)| {
        let mut looked = Looked::default();
        let (place, thing) = (format!("spool.{source}"), format!("source.{source}"));
        looked.room(looking, &place, &thing, folder).await;
        looked
    });
    join_all(all).await
}

impl Looked {
    /// Looks at a folder that is no store.
    async fn room(&mut self, looking: Looking<'_>, place: &str, thing: &str, folder: PathBuf) {
        let (findings, room) = room::look(looking, place, folder, "").await;
        self.findings.extend(findings.into_iter().map(|finding| finding.of(thing)));
        self.rooms.extend(room.map(|room| (place.to_owned(), room)));
    }
}

/// One store.
struct Place<'a> {
    name: &'a str,
    thing: String,
    config: &'a StoreConfig,
    /// Whether a repository must be there already.
    is_home: bool,
}

impl Place<'_> {
    async fn look(self, looking: Looking<'_>) -> Looked {
        let mut looked = timeout(LIMIT, self.tried(looking)).await.unwrap_or_else(|_| {
            let found = TIME.found(Status::Unknown, format!("nothing was heard for {} s", LIMIT.as_secs()));
            Looked { findings: vec![found], store_is_down: true, ..Looked::default() }
        });
        looked.findings = looked.findings.into_iter().map(|finding| finding.of(&self.thing)).collect();
        looked
    }

    async fn tried(&self, looking: Looking<'_>) -> Looked {
        let mut looked = Looked::default();
        let opened = self.config.resolve().and_then(|options| store::open(&self.config.store, &options));
        let opened = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                looked.findings.push(SETTINGS.failed(Status::Broken, &failure));
                return looked;
            }
        };
        if self.is_home {
            let (found, is_down) = repository(&opened).await;
            let is_there = found.status == Status::Ok;
            looked.findings.push(found);
            looked.store_is_down |= is_down;
            if !is_there {
                return looked;
            }
        }
        let findings = probe(&opened, looking.ground).await;
        // The one finding of a store that does not even answer.
        if let [_] = &findings[..] {
            looked.store_is_down = true;
        }
        looked.findings.extend(findings.into_iter().map(|probed| probed.finding));
        if looked.store_is_down {
            return looked;
        }
        self.measure(looking, &opened, &mut looked).await;
        looked
    }

    /// Notes what the place holds and, of a folder, how much room there is.
    async fn measure(&self, looking: Looking<'_>, opened: &Opened, looked: &mut Looked) {
        if let Ok(Ok(packs)) = timeout(LIST_LIMIT, opened.get.list(layout::PACKS)).await {
            let bytes = packs.iter().map(|pack| pack.size_bytes).sum();
            looked.stored_bytes.insert(self.name.to_owned(), bytes);
        }
        let Some(root) = self.config.text("root").filter(|_| self.config.store == "fs") else { return };
        let trash = match opened.delete.trash().await {
            Ok(trash) if trash.objects > 0 => format!("; {} lie in the trash", ByteCount(trash.size_bytes)),
            _ => String::new(),
        };
        let (findings, room) = room::look(looking, self.name, PathBuf::from(root), &trash).await;
        looked.findings.extend(findings);
        looked.rooms.extend(room.map(|room| (self.name.to_owned(), room)));
    }
}

/// Looks for a repository, and tells whether the store is down.
async fn repository(opened: &Opened) -> (Finding, bool) {
    let looked = match opened.get.size(&layout::config()).await {
        // A folder that is missing holds no object; that it does not list tells that it is missing.
        Ok(None) => opened.get.list(PROBES).await.map(|_| false),
        other => other.map(|size_bytes| size_bytes.is_some()),
    };
    match looked {
        Ok(true) => (THERE.ok(opened.place.clone()), false),
        Ok(false) => {
            let detail = format!("nothing of one lies at {}; the store was left untouched", opened.place);
            (THERE.broken(detail), false)
        }
        Err(error) => (THERE.failed(Status::Broken, &error.failure()), true),
    }
}
