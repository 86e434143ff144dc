//! A value as commands, for servers that do not take it in one piece: longer than a word may be, or of a packing that
//! an older server does not know.
//!
//! *Order.* The members go into a key of our own, in the same slot, in batches of [`BATCH_BYTES`]; then its expiry;
//! then it takes the wanted name in one step, which without permission to replace fails where that name has come into
//! being.
//!
//! *Crash.* The key of our own stays; its name begins with the wanted one and ends as [`beside`] says.

use std::io::Read;

use super::{
    cluster::slot_of,
    rdb::{Flavour, Found, Member, RdbError, Tape, each_member},
    wire::command,
};

/// Bytes of members in one command; a single member may be longer.
const BATCH_BYTES: usize = 256 * 1024;
/// Words in one command.
const BATCH_WORDS: usize = 4000;

/// Returns a name for a key of our own that stands beside `key`, in its slot.
pub(super) fn beside(key: &[u8]) -> Vec<u8> {
    let slot = slot_of(key);
    let mut name = Vec::new();
    // Without a part in braces one name in 16,384 is in the same slot.
    for nth in 0_u32.. {
        name = [key, format!(":lifeboat:{nth}").as_bytes()].concat();
        if slot_of(&name) == slot {
            break;
        }
    }
    name
}

/// Makes the commands one after the other and hands them to `send`, each with whether it is the last.
pub(super) fn each_command<R: Read>(
    tape: &mut Tape<R>,
    (flavour, found): (Flavour, &Found),
    replace: bool,
    send: &mut impl FnMut(Vec<u8>, bool),
) -> Result<(), RdbError> {
    let own = beside(&found.key);
    // What an earlier attempt has left.
    send(command(&[b"DEL", &own]), false);
    let mut batch = Batch { own: &own, verb: b"", words: Vec::new(), bytes: 0, expiring: Vec::new() };
    let is_list = found.kind == "list";
    each_member(tape, (flavour, found.code), &mut |member| batch.take(member, is_list, send))?;
    batch.flush(send);
    if let Some(at) = found.expires_at_ms {
        send(command(&[b"PEXPIREAT", &own, at.to_string().as_bytes()]), false);
    }
    let rename: &[u8] = if replace { b"RENAME" } else { b"RENAMENX" };
    send(command(&[rename, &own, &found.key]), true);
    if !replace {
        // Where the name was taken, ours is still there.
        send(command(&[b"DEL", &own]), false);
    }
    Ok(())
}

/// Members that wait for their command.
struct Batch<'a> {
    own: &'a [u8],
    verb: &'static [u8],
    words: Vec<Vec<u8>>,
    bytes: usize,
    expiring: Vec<(Vec<u8>, i64)>,
}

impl Batch<'_> {
    fn take(&mut self, member: Member, is_list: bool, send: &mut impl FnMut(Vec<u8>, bool)) {
        let (verb, words): (&[u8], Vec<Vec<u8>>) = match member {
            Member::Text(piece) => (b"APPEND", vec![piece]),
            Member::Item(item) => (if is_list { b"RPUSH" } else { b"SADD" }, vec![item]),
            Member::Scored(member, score) => (b"ZADD", vec![format!("{score:e}").into_bytes(), member]),
            Member::Field(field, value, expires) => {
                self.expiring.extend(expires.map(|at| (field.clone(), at)));
                (b"HSET", vec![field, value])
            }
        };
        self.verb = verb;
        self.bytes += words.iter().map(Vec::len).sum::<usize>();
        self.words.extend(words);
        if verb == b"APPEND" || self.bytes >= BATCH_BYTES || self.words.len() >= BATCH_WORDS {
            self.flush(send);
        }
    }

    fn flush(&mut self, send: &mut impl FnMut(Vec<u8>, bool)) {
        if !self.words.is_empty() {
            let words = [self.verb, self.own].into_iter().chain(self.words.iter().map(Vec::as_slice));
            send(command(&words.collect::<Vec<_>>()), false);
        }
        for (field, at) in self.expiring.drain(..) {
            let at = at.to_string();
            let words: [&[u8]; 6] = [b"HPEXPIREAT", self.own, at.as_bytes(), b"FIELDS", b"1", &field];
            send(command(&words), false);
        }
        self.words.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::rdb::{Item, Walker, sample::Sample};

    fn commands(dump: &[u8], replace: bool) -> Vec<String> {
        let mut walker = Walker::begin(Tape::new(dump, None), false).unwrap();
        let Item::Key(found) = walker.next().unwrap() else { panic!("a key comes first") };
        let begin = usize::try_from(found.begin).unwrap();
        let mut all = Vec::new();
        let mut send = |bytes: Vec<u8>, is_last| {
            let text = String::from_utf8(bytes).unwrap();
            let words: Vec<&str> = text.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect();
            all.push(format!("{}{}", words.join(" ").trim_end(), if is_last { "." } else { "" }));
        };
        each_command(&mut Tape::new(&dump[begin..], None), (Flavour::Redis, &found), replace, &mut send)
            .unwrap();
        all
    }

    #[test]
    fn a_list_is_put_together_beside_and_then_takes_its_name() {
        let dump = Sample::begin("REDIS0011").raw(&[252]).raw(&4_000_000_000_000_i64.to_le_bytes());
        let dump = dump.key(1, "{a}k").length(2).text("x").text("y").end();
        let all = commands(&dump, false);
        let own = "{a}k:lifeboat:0";
        assert_eq!(
            all,
            [
                format!("DEL {own}"),
                format!("RPUSH {own} x y"),
                format!("PEXPIREAT {own} 4000000000000"),
                format!("RENAMENX {own} {{a}}k."),
                format!("DEL {own}")
            ]
        );
        assert_eq!(commands(&dump, true)[3], format!("RENAME {own} {{a}}k."));
    }

    #[test]
    fn scores_and_expiries_of_fields_are_said_exactly() {
        let zset = Sample::begin("REDIS0011").key(5, "{z}").length(2).text("a").raw(&0.1_f64.to_le_bytes());
        let zset = zset.text("b").raw(&f64::NEG_INFINITY.to_le_bytes()).end();
        assert_eq!(commands(&zset, true)[1], "ZADD {z}:lifeboat:0 1e-1 a -inf b");
        let hash = Sample::begin("REDIS0012").key(24, "{h}").raw(&9_i64.to_le_bytes()).length(1);
        let hash = hash.length(1).text("f").text("v").end();
        let all = commands(&hash, true);
        assert_eq!(all[1], "HSET {h}:lifeboat:0 f v");
        assert_eq!(all[2], "HPEXPIREAT {h}:lifeboat:0 9 FIELDS 1 f");
    }

    #[test]
    fn the_key_of_our_own_is_in_the_slot_of_the_wanted_one() {
        for key in [&b"plain"[..], b"", b"{tag}x", b"odd}{", b"{}y", b"bin\xff\x00"] {
            let own = beside(key);
            assert!(own.starts_with(key) && slot_of(&own) == slot_of(key), "{key:?}");
        }
    }
}
