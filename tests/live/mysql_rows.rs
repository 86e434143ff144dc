//! Rows in pieces: all of them once, the same bytes for the same rows, and nothing of a broken piece.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat::{
    error::{ExitCode, Failure},
    flow::{
        Attrs, Coming, ComingEntry, EntryMeta, FlowError, FlowResult, Piece, Point, Preflight, STREAM_DEPTH,
        Source, Stage, Tally, Target, WriteOptions, channel, settle,
    },
    policy::MysqlConfig,
};
use sha2::{Digest, Sha256};

use crate::support::{Product, Server, own, source, target};

crate::on_both!(
    limits_of_a_server_for_every_session_take_no_row_away,
    a_large_table_is_read_by_several_workers_each_row_once,
    keys_in_any_charset_divide_a_table_into_ranges,
    a_value_longer_than_half_a_packet_comes_back,
    a_long_row_of_short_values_is_sent_in_short_frames,
    a_second_reading_after_one_insert_shares_nearly_all_chunks,
    a_piece_that_breaks_off_leaves_no_row,
    a_piece_that_lost_a_row_is_not_committed,
);

/// A reading that is kept in memory, entry after entry.
pub struct Recorded {
    pub inventory: Vec<String>,
    pub entries: Vec<(EntryMeta, Vec<Piece>, Attrs)>,
    pub point: Point,
}

impl Recorded {
    /// Reads a source one entry at a time, as a slow store would.
    pub async fn read(config: &MysqlConfig) -> Self {
        Self::try_read(config).await.unwrap_or_else(|error| panic!("the source is read: {error:?}"))
    }

    pub async fn try_read(config: &MysqlConfig) -> FlowResult<Self> {
        Self::of(source(config)).await
    }

    pub async fn of(source: Box<dyn Source>) -> FlowResult<Self> {
        let (sink, mut stream) = channel(STREAM_DEPTH);
        let keep = async {
            let mut entries = Vec::new();
            while let Some(mut entry) = stream.next().await? {
                let mut pieces = Vec::new();
                while let Some(piece) = entry.body.next_piece().await? {
                    pieces.push(piece);
                }
                entries.push((entry.meta, pieces, entry.body.trailer().clone()));
            }
            let point = stream.point().cloned().expect("a finished stream has a point");
            Ok(Self { inventory: stream.inventory().to_vec(), entries, point })
        };
        let (read, taken) = tokio::join!(source.read(sink, None), keep);
        settle(read, taken).map(|((), recorded)| recorded)
    }

    /// Writes what `options` select into a target.
    pub async fn write(&self, config: &MysqlConfig, options: WriteOptions) -> FlowResult<Tally> {
        self.write_to(target(config), options).await
    }

    /// Writes what `options` select into this target.
    pub async fn write_to(&self, target: Box<dyn Target>, options: WriteOptions) -> FlowResult<Tally> {
        let (sink, stream) = channel(STREAM_DEPTH);
        let only = options.only.clone();
        let replay = async move {
            sink.announce(self.inventory.clone()).await?;
            let wanted = |(meta, _, trailer): &&(EntryMeta, Vec<Piece>, Attrs)| {
                only.wants(meta) && only.may_hold(meta, trailer)
            };
            for (meta, pieces, trailer) in self.entries.iter().filter(wanted) {
                let mut body = sink.begin(meta.clone()).await?;
                for piece in pieces {
                    match piece {
                        Piece::Data(bytes) => body.write(bytes.clone()).await?,
                        Piece::Border => body.border().await?,
                    }
                }
                body.finish_with(trailer.clone()).await?;
            }
            self.inventory.iter().for_each(|item| sink.complete(item));
            sink.finish(self.point.clone()).await
        };
        let (sent, written) = tokio::join!(replay, target.write(options, stream));
        settle(sent, written).map(|((), tally)| tally)
    }

    /// Asks a target what it says of what `options` select.
    pub async fn preflight(&self, config: &MysqlConfig, options: WriteOptions) -> Preflight {
        self.preflight_of(target(config), options).await
    }

    /// Asks this target what it says of what `options` select.
    pub async fn preflight_of(&self, mut target: Box<dyn Target>, options: WriteOptions) -> Preflight {
        self.preflight_with(&mut *target, &options).await
    }

    /// Asks this target, which may be written after it.
    pub async fn preflight_with(&self, target: &mut dyn Target, options: &WriteOptions) -> Preflight {
        let only = &options.only;
        let wanted =
            self.entries.iter().filter(|(meta, _, trailer)| only.wants(meta) && only.may_hold(meta, trailer));
        let entries: Vec<ComingEntry> = wanted
            .map(|(meta, pieces, trailer)| {
                let bytes = bytes_of(pieces);
                let (meta, trailer, size_bytes) = (meta.clone(), trailer.clone(), bytes.len() as u64);
                let definition = (meta.stage != Stage::Data).then_some(bytes);
                ComingEntry { meta, trailer, size_bytes, definition }
            })
            .collect();
        let mut replay = Replay(entries.into_iter());
        target.preflight(options, &mut replay).await.unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    /// Changes the text of one entry.
    pub fn replace(&mut self, path: &str, change: impl Fn(&str) -> String) {
        let entry = self.entries.iter_mut().find(|(meta, ..)| meta.path.as_str() == path);
        let (_, pieces, _) = entry.unwrap_or_else(|| panic!("there is `{path}`"));
        let text = String::from_utf8(bytes_of(pieces)).expect("it is text");
        *pieces = vec![Piece::Data(change(&text).into())];
    }

    /// Writes what `options` select into a target; the stream breaks off behind the last rows.
    pub async fn write_cut(&self, config: &MysqlConfig, options: WriteOptions) -> FlowResult<Tally> {
        let rows = self.entries.iter().filter(|(meta, ..)| meta.stage <= Stage::Data).cloned();
        let cut =
            Self { inventory: self.inventory.clone(), entries: rows.collect(), point: self.point.clone() };
        let (sink, stream) = channel(STREAM_DEPTH);
        let only = options.only.clone();
        let replay = async move {
            sink.announce(cut.inventory.clone()).await?;
            for (meta, pieces, trailer) in cut.entries.iter().filter(|(meta, ..)| only.wants(meta)) {
                let mut body = sink.begin(meta.clone()).await?;
                for piece in pieces {
                    if let Piece::Data(bytes) = piece {
                        body.write(bytes.clone()).await?;
                    }
                }
                body.finish_with(trailer.clone()).await?;
            }
            // Dropped here, it never says that it is whole.
            drop(sink);
            Ok::<(), FlowError>(())
        };
        let (sent, written) = tokio::join!(replay, target(config).write(options, stream));
        settle(sent, written).map(|((), tally)| tally)
    }

    /// Returns the bytes of all rows of a table, entry after entry.
    pub fn rows(&self, table: &str) -> Vec<Vec<u8>> {
        let of_table = self
            .entries
            .iter()
            .filter(|(meta, ..)| meta.stage == Stage::Data && meta.text("table") == Some(table));
        let mut of_table: Vec<_> = of_table.collect();
        // Which of two workers begins its range first is chance; the names stand in the order of the key.
        of_table.sort_by_key(|(meta, ..)| &meta.path);
        of_table.into_iter().map(|(_, pieces, _)| bytes_of(pieces)).collect()
    }

    /// Returns the digests of all chunks of rows with their sizes.
    pub fn chunks(&self) -> BTreeMap<Vec<u8>, usize> {
        let mut chunks = BTreeMap::new();
        for (_, pieces, _) in self.entries.iter().filter(|(meta, ..)| meta.stage == Stage::Data) {
            for chunk in pieces.split(|piece| *piece == Piece::Border) {
                let bytes = bytes_of(chunk);
                chunks.insert(Sha256::digest(&bytes).to_vec(), bytes.len());
            }
        }
        chunks
    }
}

/// Entries that are handed out one after the other.
struct Replay(std::vec::IntoIter<ComingEntry>);

#[async_trait::async_trait]
impl Coming for Replay {
    async fn next(&mut self) -> lifeboat::error::Result<Option<ComingEntry>> {
        Ok(self.0.next())
    }
}

fn bytes_of(pieces: &[Piece]) -> Vec<u8> {
    let data = pieces.iter().filter_map(|piece| match piece {
        Piece::Data(bytes) => Some(bytes.as_ref()),
        Piece::Border => None,
    });
    data.collect::<Vec<_>>().concat()
}

const ALL: fn(bool) -> WriteOptions = |replace| WriteOptions { replace, ..WriteOptions::default() };

/// Makes `rows` rows (a multiple of 1,000) in a table with this key, with ids two apart.
pub async fn fill(server: &Server, db: &str, table: &str, key: &str, rows: u32) {
    server
        .run([
            format!("USE {db}"),
            format!(
                "CREATE TABLE {db}.{table} (id BIGINT, grp INT, name VARCHAR(80) COLLATE \
                    utf8mb4_unicode_ci, v VARCHAR(300), {key})"
            ),
            format!("CREATE TABLE IF NOT EXISTS {db}.digits (n INT PRIMARY KEY)"),
            format!("INSERT IGNORE INTO {db}.digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)"),
            format!(
                "INSERT INTO {db}.{table}
                 SELECT n * 2, n MOD 3, CONCAT('Näme ', SHA2(n, 256)), REPEAT(SHA2(n, 224), 1 + n MOD 4) \
                     FROM (
                     SELECT a.n + b.n * 10 + c.n * 100 + d.n * 1000 + e.n * 10000 + f.n * 100000 AS n
                     FROM {db}.digits a, {db}.digits b, {db}.digits c, {db}.digits d, {db}.digits e, \
                         {db}.digits f
                     ) numbers WHERE n < {rows}"
            ),
        ])
        .await;
}

pub async fn fresh(server: &Server, db: &str) {
    server
        .run([format!("DROP DATABASE IF EXISTS {db}"), format!("CREATE DATABASE {db} CHARACTER SET utf8mb4")])
        .await;
}

async fn limits_of_a_server_for_every_session_take_no_row_away(product: Product) {
    let server = Server::empty(product).await;
    let db = "limits";
    fresh(&server, db).await;
    fill(&server, db, "by_id", "PRIMARY KEY (id)", 3_000).await;
    fill(&server, db, "by_nothing", "KEY (grp)", 3_000).await;
    let config = server.only(&[db]);
    let before = Recorded::read(&config).await;
    server
        .run([
            "SET GLOBAL sql_select_limit=2, GLOBAL max_join_size=5, GLOBAL sql_safe_updates=1",
            "SET GLOBAL sql_auto_is_null=1, GLOBAL max_error_count=0, GLOBAL autocommit=0",
        ])
        .await;
    let after = Recorded::read(&config).await;
    assert_eq!(after.inventory, before.inventory);
    assert_eq!(after.chunks(), before.chunks());
}

async fn a_large_table_is_read_by_several_workers_each_row_once(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("large");
    fresh(&server, db).await;
    fill(&server, db, "by_id", "PRIMARY KEY (id)", 300_000).await;
    fill(&server, db, "by_text", "PRIMARY KEY (grp, name)", 300_000).await;
    fill(&server, db, "by_nothing", "KEY (grp)", 1_000).await;
    let mut config = server.only(&[db]);
    config.threads = 3;
    let recorded = Recorded::read(&config).await;
    for (table, at_least) in [("by_id", 2), ("by_text", 2), ("by_nothing", 1)] {
        let pieces = recorded.rows(table);
        assert!(pieces.len() >= at_least, "`{table}` came in {} pieces", pieces.len());
        let ids: Vec<&[u8]> = pieces
            .iter()
            .flat_map(|piece| piece.split(|b| *b == b'\n'))
            .filter(|line| !line.is_empty())
            .map(|line| line.split(|b| *b == b'\t').next().expect("a field"))
            .collect();
        let distinct: BTreeSet<&[u8]> = ids.iter().copied().collect();
        let rows: usize = server.ask(&format!("SELECT COUNT(*) FROM {db}.{table}")).await.parse().unwrap();
        assert_eq!((ids.len(), distinct.len()), (rows, rows), "`{table}`");
    }
    let began = std::time::Instant::now();
    let tally = recorded.write(&config, ALL(true)).await.expect("it is loaded again");
    let mb = tally.bytes as f64 / 1e6;
    eprintln!("{product:?}: loaded {mb:.1} MB at {:.1} MB/s", mb / began.elapsed().as_secs_f64());
    let again = Recorded::read(&config).await;
    for table in ["by_id", "by_text", "by_nothing"] {
        // How many pieces there are depends on what the server guesses of the table's size.
        let (before, after) = (recorded.rows(table).concat(), again.rows(table).concat());
        assert!(before == after, "`{table}` differs after a restore");
    }
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn keys_in_any_charset_divide_a_table_into_ranges(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("charsets");
    fresh(&server, db).await;
    fill(&server, db, "filled", "PRIMARY KEY (id)", 150_000).await;
    // Bytes that are other letters, or none, when they are taken for another charset's.
    let all = [("latin1", "'é','ü'"), ("gbk", "'中','文'"), ("utf16", "'密','b'"), ("utf8mb4", "'🐬','é'")];
    for (charset, letters) in all {
        let letter = format!("ELT(1 + id DIV 2 MOD 4, 'a', {letters}, 'z')");
        server
            .run([
                format!("CREATE TABLE {db}.{charset} (k VARCHAR(80) CHARACTER SET {charset} PRIMARY KEY)"),
                format!("INSERT INTO {db}.{charset} SELECT CONCAT({letter}, SHA2(id, 224)) FROM {db}.filled"),
            ])
            .await;
    }
    server.run([format!("CREATE TABLE {db}.bytes (k VARBINARY(40) PRIMARY KEY)")]).await;
    server.run([format!("INSERT INTO {db}.bytes SELECT UNHEX(SHA2(id, 256)) FROM {db}.filled")]).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    for table in all.map(|(charset, _)| charset).iter().chain(&["bytes"]) {
        let pieces = recorded.rows(table);
        assert!(pieces.len() > 1, "`{table}` came in one piece");
        let lines = pieces.iter().flat_map(|piece| piece.split(|b| *b == b'\n'));
        let keys: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        let distinct: BTreeSet<&[u8]> = keys.iter().copied().collect();
        assert_eq!((keys.len(), distinct.len()), (150_000, 150_000), "`{table}`");
    }
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_value_longer_than_half_a_packet_comes_back(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("long");
    fresh(&server, db).await;
    let most_bytes: u64 = server.ask("SELECT @@max_allowed_packet").await.parse().unwrap();
    let long = format!("REPEAT('\\0a\\n\\t', {})", (most_bytes / 2 + (4 << 20)) / 4);
    server
        .run([
            format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, b LONGBLOB NOT NULL, t LONGTEXT NOT NULL)"),
            format!("INSERT INTO {db}.t VALUES (1, {long}, ''), (2, '', {long}), (3, '', '')"),
        ])
        .await;
    let of = |column: &str, id: u8| format!("(SELECT SHA2({column}, 256) FROM {db}.t WHERE id = {id})");
    let digest = format!("SELECT CONCAT({}, {}, {})", of("b", 1), of("t", 2), of("b", 3));
    let before = server.ask(&digest).await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    recorded.write(&config, ALL(true)).await.expect("it is loaded again");
    assert_eq!(server.ask(&digest).await, before);
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_long_row_of_short_values_is_sent_in_short_frames(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("wide");
    fresh(&server, db).await;
    let columns: Vec<String> = (0..180).map(|n| format!("c{n} LONGTEXT NOT NULL")).collect();
    let values: Vec<String> = (0..180).map(|n| format!("REPEAT(CHAR({}), 12000)", 97 + n % 26)).collect();
    server
        .run([
            format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, {})", columns.join(",")),
            format!("INSERT INTO {db}.t VALUES (1, {0}), (2, {0})", values.join(",")),
        ])
        .await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    let frames = recorded.entries.iter().flat_map(|(_, pieces, _)| pieces).map(|piece| match piece {
        Piece::Data(bytes) => bytes.len(),
        Piece::Border => 0,
    });
    let longest = frames.max().expect("there are frames");
    assert!(longest < 512 << 10, "a frame has {longest} bytes");
    recorded.write(&config, ALL(true)).await.expect("it is loaded again");
    assert!(Recorded::read(&config).await.rows("t") == recorded.rows("t"), "rows differ");
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_second_reading_after_one_insert_shares_nearly_all_chunks(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("shares");
    fresh(&server, db).await;
    fill(&server, db, "t", "PRIMARY KEY (id)", 300_000).await;
    let config = server.only(&[db]);
    let began = std::time::Instant::now();
    let before = Recorded::read(&config).await.chunks();
    let mb = before.values().sum::<usize>() as f64 / 1e6;
    eprintln!("{product:?}: read {mb:.1} MB at {:.1} MB/s", mb / began.elapsed().as_secs_f64());
    assert!(before.len() > 20, "{} chunks", before.len());
    assert_eq!(Recorded::read(&config).await.chunks(), before, "an unchanged table gives the same chunks");
    server.run([format!("INSERT INTO {db}.t VALUES (30001, 1, 'new', 'row')")]).await;
    let after = Recorded::read(&config).await.chunks();
    let new = after.keys().filter(|id| !before.contains_key(*id)).count();
    assert!((1..=3).contains(&new), "{new} of {} chunks are new", after.len());
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn small(server: &Server, db: &str) -> (MysqlConfig, Recorded) {
    fresh(server, db).await;
    server
        .run([
            format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(20))"),
            format!("INSERT INTO {db}.t VALUES (1, 'one'), (2, 'two'), (3, 'three')"),
        ])
        .await;
    let config = server.only(&[db]);
    let recorded = Recorded::read(&config).await;
    server.run([format!("DROP DATABASE {db}")]).await;
    (config, recorded)
}

async fn a_piece_that_breaks_off_leaves_no_row(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("breaks");
    let (config, recorded) = small(&server, db).await;
    let (sink, stream) = channel(STREAM_DEPTH);
    // It owns the sink, which goes when it fails, as a broken sender's would.
    let entries = &recorded.entries;
    let inventory = recorded.inventory.clone();
    let broken = async move {
        sink.announce(inventory).await?;
        for (meta, pieces, trailer) in entries {
            let mut body = sink.begin(meta.clone()).await?;
            if meta.stage == Stage::Data {
                body.write(bytes_of(pieces)[..12].to_vec().into()).await?;
                let what = Failure::new(ExitCode::StoreDown, "the store went away");
                return Err::<(), _>(FlowError::from(what));
            }
            body.write(bytes_of(pieces).into()).await?;
            body.finish_with(trailer.clone()).await?;
        }
        Ok(())
    };
    let (sent, written) = tokio::join!(broken, target(&config).write(ALL(false), stream));
    let error = settle(sent, written).expect_err("a broken stream is no success");
    assert_eq!(error.to_string(), "the store went away");
    assert_eq!(server.ask(&format!("SELECT COUNT(*) FROM {db}.t")).await, "0");
    server.run([format!("DROP DATABASE {db}")]).await;
}

async fn a_piece_that_lost_a_row_is_not_committed(product: Product) {
    let server = Server::shared(product).await;
    let db = &own("loses");
    let (config, mut recorded) = small(&server, db).await;
    let rows = recorded.entries.iter_mut().find(|(meta, ..)| meta.stage == Stage::Data).unwrap();
    rows.1 = vec![Piece::Data("1\tone\n2\ttwo\n".into())];
    let error = recorded.write(&config, ALL(false)).await.expect_err("a row is missing");
    assert!(error.to_string().contains("took 2 rows with 0 warnings of 3 rows"), "{error}");
    // What LOAD DATA LOCAL takes with a warning only: a value cut off, a row skipped, a word for a number.
    for (text, wrong) in [
        ("1\tone\n2\ttwo\n3\tlonger than the column allows\n", "took 3 rows with 1 warnings of 3 rows"),
        ("1\tone\n2\ttwo\n2\ttwo\n", "of 3 rows"),
        ("1\tone\n2\ttwo\nx\tthree\n", "took 3 rows with 1 warnings of 3 rows"),
    ] {
        let rows = recorded.entries.iter_mut().find(|(meta, ..)| meta.stage == Stage::Data).unwrap();
        rows.1 = vec![Piece::Data(text.into())];
        let error =
            recorded.write(&config, ALL(true)).await.err().unwrap_or_else(|| panic!("{text} was taken"));
        assert!(error.to_string().contains(wrong), "{error}");
    }
    assert_eq!(server.ask(&format!("SELECT COUNT(*) FROM {db}.t")).await, "0");
    server.run([format!("DROP DATABASE {db}")]).await;
}
