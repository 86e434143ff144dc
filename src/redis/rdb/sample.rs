//! Dumps made by hand, for tests: the bytes that servers write, with every type and encoding.

use crate::redis::crc::crc64;

/// Writes a dump piece by piece.
pub(crate) struct Sample(Vec<u8>);

impl Sample {
    /// Begins with a magic such as `REDIS0011`.
    pub(crate) fn begin(magic: &str) -> Self {
        Self(magic.as_bytes().to_vec())
    }

    /// Adds bytes as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a length in its shortest form.
    pub(crate) fn length(self, value: u64) -> Self {
        let bytes = value.to_be_bytes();
        match value {
            0..64 => self.raw(&bytes[7..]),
            64..16_384 => self.raw(&[0x40 | bytes[6], bytes[7]]),
            _ => self.raw(&[0x81]).raw(&bytes),
        }
    }

    /// Adds a plain string.
    pub(crate) fn text(self, text: impl AsRef<[u8]>) -> Self {
        self.length(text.as_ref().len() as u64).raw(text.as_ref())
    }

    /// Selects a database.
    pub(crate) fn db(self, db: u64) -> Self {
        self.raw(&[254]).length(db)
    }

    /// Begins a key; its value follows.
    pub(crate) fn key(self, code: u8, key: &str) -> Self {
        self.raw(&[code]).text(key)
    }

    /// Adds a key with a string.
    pub(crate) fn string(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.key(0, key).text(value)
    }

    /// Ends with the right checksum.
    pub(crate) fn end(self) -> Vec<u8> {
        let mut bytes = self.raw(&[255]).0;
        let crc = crc64(0, &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Packs short texts as a listpack.
pub(crate) fn listpack(members: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for member in members {
        let size = u8::try_from(member.len()).unwrap();
        assert!(size < 64);
        body.push(0x80 | size);
        body.extend_from_slice(member.as_bytes());
        body.push(size + 1);
    }
    let mut all = u32::try_from(body.len() + 7).unwrap().to_le_bytes().to_vec();
    all.extend_from_slice(&u16::try_from(members.len()).unwrap().to_le_bytes());
    all.extend_from_slice(&body);
    all.push(0xff);
    all
}

/// Packs short texts as a ziplist.
pub(crate) fn ziplist(members: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for member in members {
        body.extend_from_slice(&[0, u8::try_from(member.len()).unwrap()]);
        body.extend_from_slice(member.as_bytes());
    }
    let mut all = u32::try_from(body.len() + 11).unwrap().to_le_bytes().to_vec();
    all.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    all.extend_from_slice(&body);
    all.push(0xff);
    all
}

/// Adds a stream with one node, a group, a pending entry and a consumer, which says that it has `length` entries.
pub(crate) fn stream(sample: Sample, code: u8, key: &str, length: u64) -> Sample {
    let mut sample = sample.key(code, key).length(1).text([0; 16]).text(listpack(&["x"]));
    sample = sample.length(length).length(1).length(0);
    if code >= 19 {
        sample = sample.length(1).length(0).length(0).length(0).length(1);
    }
    sample = sample.length(1).text("group").length(1).length(0);
    if code >= 19 {
        sample = sample.length(1);
    }
    sample = sample.length(1).raw(&[1; 16]).raw(&[2; 8]).length(3);
    sample = sample.length(1).text("consumer").raw(&[4; 8]);
    if code >= 21 {
        sample = sample.raw(&[5; 8]);
    }
    sample.length(1).raw(&[1; 16])
}

/// Returns a dump with every type and opcode, and what it holds: keys by database.
pub(crate) fn everything(magic: &str) -> (Vec<u8>, Vec<(u64, u64)>) {
    let mut sample = Sample::begin(magic);
    sample = sample
        .raw(&[250])
        .text("redis-ver")
        .text("8.0.6")
        .raw(&[250])
        .text("used-mem")
        .raw(&[0xc2, 0, 0, 1, 0]);
    // A module's data outside keys, a function library.
    sample = sample.raw(&[247]).length(u64::MAX).length(2).length(2).length(5).text("aux").length(0);
    sample = sample.raw(&[245]).text("#!lua name=f\n…");
    sample = sample.db(0).raw(&[251]).length(30).length(2).raw(&[244]).length(1).length(2).length(3);
    // Strings: plain, numbers of three widths, packed, with a length of eight bytes.
    sample = sample.string("plain", "x").key(0, "i8").raw(&[0xc0, 0xff]).key(0, "i16").raw(&[0xc1, 0, 1]);
    sample = sample.key(0, "i32").raw(&[0xc2, 1, 2, 3, 4]);
    sample = sample.key(0, "lzf").raw(&[0xc3]).length(5).length(12).raw(&[0, b'a', 0xe0, 2, 0]);
    sample = sample.key(0, "long").raw(&[0x81, 0, 0, 0, 0, 0, 0, 0, 2]).raw(b"ab");
    sample = sample.key(0, "middle").raw(&[0x80, 0, 0, 0, 2]).raw(b"ab");
    // Expiry in milliseconds and seconds, idle time, frequency.
    sample = sample.raw(&[252]).raw(&4_000_000_000_000_i64.to_le_bytes()).string("ms", "x");
    sample = sample.raw(&[253]).raw(&1_000_i32.to_le_bytes()).string("gone", "x");
    sample = sample.raw(&[248]).length(500).string("idle", "x").raw(&[249, 7]).string("frequent", "x");
    let collections: [(u8, &str); 3] = [(1, "list"), (2, "set"), (14, "quicklist")];
    for (code, key) in collections {
        let member = if code == 14 { ziplist(&["a"]) } else { b"a".to_vec() };
        sample = sample.key(code, key).length(2).text(&member).text(&member);
    }
    sample = sample.key(3, "zset1").length(2).text("a").raw(&[3]).raw(b"1.5").text("b").raw(&[254]);
    sample =
        sample.key(4, "hash").length(1).text("f").text("v").key(5, "zset2").length(1).text("a").raw(&[0; 8]);
    // A module's value with fields of each kind.
    sample = sample
        .key(7, "module")
        .length(u64::MAX)
        .length(1)
        .length(9)
        .length(2)
        .length(9)
        .length(3)
        .raw(&[0; 4]);
    sample = sample.length(4).raw(&[0; 8]).length(5).text("s").length(0);
    sample = sample
        .key(10, "ziplist")
        .text(ziplist(&["a", "b"]))
        .key(11, "intset")
        .text([2, 0, 0, 0, 1, 0, 0, 0, 5, 0]);
    sample = sample.key(12, "zsetzl").text(ziplist(&["a", "1"])).key(13, "hashzl").text(ziplist(&["f", "v"]));
    sample =
        sample.key(16, "hashlp").text(listpack(&["f", "v"])).key(17, "zsetlp").text(listpack(&["a", "1"]));
    sample = sample.key(18, "quicklist2").length(2).length(1).text("plain").length(2).text(listpack(&["a"]));
    sample = sample.key(20, "setlp").text(listpack(&["a", "b"]));
    for code in [15, 19, 21] {
        sample = stream(sample, code, &format!("stream{code}"), 1);
    }
    sample = if magic.starts_with("VALKEY") {
        sample.db(3).key(22, "hfe").length(1).text("f").text("v").raw(&[0xff; 8])
    } else {
        sample.db(3).key(22, "hfe").length(1).length(0).text("f").text("v")
    };
    sample = sample.key(24, "hfe24").raw(&[9; 8]).length(1).length(1).text("f").text("v");
    sample = sample.key(23, "hfe23").text(listpack(&["f", "v", "0"]));
    sample = sample.key(25, "hfe25").raw(&[9; 8]).text(listpack(&["f", "v", "123"]));
    (sample.end(), vec![(0, 29), (3, 4)])
}
