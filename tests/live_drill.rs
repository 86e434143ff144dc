//! Drills on real servers in real containers: what is whole passes; what was changed in the lab is named; what could
//! not be asked never passes; nothing is left behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "live_s3/stage.rs"]
#[allow(dead_code, reason = "made for the tests of the S3 engine")]
mod buckets;
#[path = "live_support/redis.rs"]
mod redis_connection;
#[path = "redis_lab/mod.rs"]
mod redis_lab;
#[path = "cli/stage.rs"]
mod stage;
#[path = "live_support/mysql.rs"]
#[allow(dead_code, reason = "made for the tests of the MySQL engine")]
mod support;

#[path = "service/host.rs"]
#[allow(dead_code, reason = "made for the tests of the service")]
mod host;
#[path = "live_cli/town.rs"]
#[allow(dead_code, reason = "made for the tests of the command line")]
mod town;

#[path = "live_drill/left_behind.rs"]
mod left_behind;
#[path = "live_drill/mutations.rs"]
mod mutations;
#[path = "live_drill/passes.rs"]
mod passes;

use std::process::Command;

use town::Town;

/// What every stack of these tests asks of a drill.
fn questions(town: &Town) -> String {
    let (db, bucket) = (&town.db, &town.bucket.name);
    let image = |name: &str| std::env::var(name).expect("source fixtures/stack env");
    format!(
        "[drill]\nrto_minutes = 30\nmemory_mib = 2048\nby_hand = true\nby_hand_image = \"{}\"\n\
         [drill.images]\nmysql = \"{}\"\nredis = \"{}\"\nminio = \"{}\"\n\
         [[drill.reference]]\nname = \"each file has its object\"\nsource = \"mysql\"\n\
         query = \"SELECT path FROM {db}.files\"\nin = \"minio\"\nbucket = \"{bucket}\"\norphans_max = 0\n\
         [[drill.reference]]\nname = \"each user is in the cache\"\nsource = \"mysql\"\n\
         query = \"SELECT CONCAT('user:', id) FROM {db}.users WHERE id < 20\"\nin = \"redis\"\n\
         orphans = \"user:*\"\norphans_max = 0\n\
         [[drill.expect]]\nname = \"there are users\"\nsource = \"mysql\"\n\
         query = \"SELECT COUNT(*) FROM {db}.users\"\nat_least = 50\n\
         [[drill.command]]\nname = \"the server answers by its name\"\ncommand = [\"bash\", \"-c\", \
         \"exec 3<>/dev/tcp/$LIFEBOAT_MYSQL_HOST/$LIFEBOAT_MYSQL_PORT\"]\n",
        image("BARE_IMAGE"),
        image("MYSQL_IMAGE"),
        image("REDIS7_IMAGE"),
        image("S3_IMAGE"),
    )
}

/// A stack with a snapshot and questions, of a name that tells its labs apart from those of tests that run meanwhile.
async fn stored(what: &str) -> (Town, String) {
    let town = Town::with_policy(what).await;
    town.mysql
        .run([format!(
            "CREATE TRIGGER {0}.stamp BEFORE INSERT ON {0}.users FOR EACH ROW SET NEW.name = TRIM(NEW.name)",
            town.db
        )])
        .await;
    rename(&town, what);
    town.stage.append(&questions(&town));
    let snapshot = town.run(&["--json", "backup"]).ends(0).json()["snapshot"].as_str().unwrap().to_owned();
    (town, snapshot)
}

/// Gives a stack a name of its own.
fn rename(town: &Town, name: &str) {
    town.stage.edit(|text| {
        let (_, rest) = text.split_once('\n').unwrap();
        format!("stack = \"{name}\"\n{rest}")
    });
}

/// A stack's name that is this run's alone. What is left of its labs goes when the test fails, too.
struct Own(String);

impl std::ops::Deref for Own {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for (kind, remove) in KINDS {
            for id in listed(kind, self) {
                let _ = Command::new("docker").args(remove).arg(id).output();
            }
        }
    }
}

fn own(name: &str) -> Own {
    Own(format!("{name}{}", std::process::id()))
}

/// What a lab is made of: how it is listed, and how it is removed.
const KINDS: [(&[&str], &[&str]); 3] = [
    (&["ps", "-aq"], &["rm", "-fv"]),
    (&["network", "ls", "-q"], &["network", "rm"]),
    (&["volume", "ls", "-q"], &["volume", "rm"]),
];

fn listed(kind: &[&str], stack: &str) -> Vec<String> {
    let label = format!("label=lifeboat.lab.stack={stack}");
    let output = Command::new("docker").args(kind).args(["--filter", &label]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Returns what docker still has of the labs of a stack.
fn remains(stack: &str) -> Vec<String> {
    KINDS.iter().flat_map(|(kind, _)| listed(kind, stack)).collect()
}
