//! Changes to a seed: of its bits, of its length, of its numbers and, where it is JSON, of its values.

use serde_json::{Value, json};

/// Numbers at which programs give way.
const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "1e308",
    "0.1",
];

/// A series of changes that is the same for the same number.
pub struct Changes(u64);

impl Changes {
    /// Begins a series.
    pub fn new(number: u64) -> Self {
        Self(number | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Returns a number below `limit`; 0 when there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    /// Returns `seed` with one to four changes; `other` is where foreign parts come from.
    pub fn apply(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            bytes = match self.below(8) {
                0 => self.flip(bytes),
                1 => self.overwrite(bytes),
                2 => self.cut(bytes),
                3 => self.repeat(&bytes),
                4 => self.splice(&bytes, other),
                5 => self.number(bytes),
                _ => self.value(bytes),
            };
        }
        bytes
    }

    fn flip(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let at = self.below(bytes.len());
        let bit = self.below(8);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        bytes
    }

    fn overwrite(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let (at, new) = (self.below(bytes.len()), self.below(256));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = u8::try_from(new).unwrap();
        }
        bytes
    }

    fn cut(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let (from, length) = (self.below(bytes.len()), self.below(bytes.len()));
        if self.below(2) == 0 {
            bytes.truncate(from);
        } else {
            bytes.drain(from..(from + length.min(16)).min(bytes.len()));
        }
        bytes
    }

    fn repeat(&mut self, bytes: &[u8]) -> Vec<u8> {
        let from = self.below(bytes.len());
        let part = bytes[from..(from + 1 + self.below(32)).min(bytes.len())].to_vec();
        let times = 1 + self.below(64);
        [&bytes[..from], &part.repeat(times), &bytes[from..]].concat()
    }

    fn splice(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let (at, from) = (self.below(bytes.len()), self.below(other.len()));
        [&bytes[..at], &other[from..]].concat()
    }

    /// Puts another number in the place of a row of digits.
    fn number(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let start = self.below(bytes.len());
        let Some(from) = bytes[start..].iter().position(u8::is_ascii_digit) else { return bytes };
        let from = start + from;
        let length = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let new = NUMBERS[self.below(NUMBERS.len())];
        [&bytes[..from], new.as_bytes(), &bytes[from + length..]].concat()
    }

    /// Changes a value of a JSON text and leaves it one.
    fn value(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else { return self.flip(bytes) };
        let mut at = &mut value;
        while self.below(5) > 0 {
            let children = match &*at {
                Value::Array(all) => all.len(),
                Value::Object(all) => all.len(),
                _ => 0,
            };
            if children == 0 {
                break;
            }
            let child = self.below(children);
            at = match at {
                Value::Array(all) => &mut all[child],
                Value::Object(all) => all.values_mut().nth(child).unwrap(),
                _ => unreachable!("it has children"),
            };
        }
        *at = self.hostile(&at.take());
        serde_json::to_vec(&value).unwrap()
    }

    fn hostile(&mut self, old: &Value) -> Value {
        match self.below(12) {
            0 => Value::Null,
            1 => json!(""),
            2 => json!("x".repeat(self.below(5000))),
            3 => json!([]),
            4 => json!({}),
            5 => json!(true),
            6 => (0..100).fold(json!(1), |inner, _| json!([inner])),
            7 => json!([old, old]),
            8 => json!("+262142-12-31T23:59:59.999999999Z"),
            9 => json!("-262143-01-01T00:00:00Z"),
            _ => serde_json::from_str(NUMBERS[self.below(NUMBERS.len())]).unwrap(),
        }
    }
}
