//! A stack whose nights are begun by hand, and those who hear of them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;

use crate::{
    host::set_schedule,
    receiver::Receiver,
    stage::{Ran, Stage},
};

/// What each night is.
pub const NIGHT: [&str; 3] = ["serve", "--once", "backup"];

/// The stack, and a webhook that it tells.
pub struct Night {
    pub stage: Stage,
    pub chat: Receiver,
}

impl Night {
    /// Makes a stack without a source that tries once each night.
    pub async fn new() -> Self {
        let night = Self { stage: Stage::new(), chat: Receiver::answering(&[(200, "ok")]).await };
        set_schedule(&night.stage, "backup = \"0 2 * * *\"\nretries = 0");
        night.stage.secret("chat", &night.chat.url("/services/T/B/x"));
        let webhook = night.stage.at("secrets/chat");
        night.stage.append(&format!(
            "[[notify]]\nname = \"chat\"\nkind = \"slack\"\nwebhook = {{ file = \"{webhook}\" }}\n"
        ));
        night
    }

    /// Lets a night pass.
    #[track_caller]
    pub fn passes(&self, exit: i32) -> Ran {
        self.stage.run(&NIGHT).ends(exit)
    }

    /// Returns the snapshots that prune would keep, and why.
    #[track_caller]
    pub fn kept(&self) -> Value {
        self.json(&["prune", "--plan"])["keep"].clone()
    }

    /// Returns the ids of all snapshots.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<String> {
        let listed = self.json(&["snapshots"]);
        let all = listed["snapshots"].as_array().unwrap().iter();
        all.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Returns what kinds of incidents are open.
    #[track_caller]
    pub fn open(&self) -> Vec<String> {
        let all = self.json(&["incidents"]);
        let open = all["open"].as_array().unwrap().iter();
        open.map(|one| one["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// Returns what people were told so far.
    pub fn told(&self) -> Vec<String> {
        self.chat.requests().iter().map(|one| one.json()["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Checks that the last backup is seen to have failed because the source is down, for a reason that names `part`.
    #[track_caller]
    pub fn has_failed(&self, part: &str) {
        let standing = self.json(&["status"]);
        let tasks = standing["tasks"].as_array().unwrap().iter();
        let backup = tasks.into_iter().find(|one| one["task"]["job"] == "backup").unwrap();
        assert_eq!((&standing["verdict"], &backup["state"]), (&"danger".into(), &"failed".into()));
        let run = &backup["last_run"];
        assert_eq!((&run["exit"], &run["snapshot"]), (&20.into(), &Value::Null), "{run}");
        let why = run["message"].as_str().unwrap();
        assert!(why.contains("`mysql`") && why.contains(part), "`{part}` is not in {why}");
        assert_eq!(self.open(), ["failed"]);
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        self.stage.run(&[words, &["--json"]].concat()).ends(0).json()
    }

    /// Returns all files below a folder with what is in them.
    pub fn contents(&self, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = self.stage.files(folder).into_iter();
        files.map(|file| (file.clone(), fs::read(file).unwrap())).collect()
    }
}
