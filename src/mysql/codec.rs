//! One codec for each kind of column: how a value is asked for, and how it is given back.
//!
//! Whatever the stock clients get wrong has a codec of its own: a FLOAT printed with six digits, an ENUM's
//! index 0 that becomes a member, bytes that a charset conversion would touch.

use serde::{Deserialize, Serialize};

use super::{sql::ident, tsv::push_field};

/// The digits of hexadecimal numbers.
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// How the values of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Codec {
    /// The column's bytes in its own charset, as they are.
    Raw,
    /// Hexadecimal: binary strings, blobs, geometry, vectors. The digits are made here: what `HEX()` makes of a value
    /// longer than half of `max_allowed_packet` is NULL on `MariaDB`, with a warning that no `SELECT` shows.
    Hex,
    /// A hexadecimal number.
    Bit,
    /// A FLOAT as the DOUBLE that it is, because the server prints only six digits of a FLOAT.
    F64,
    /// The member's number, because index 0 prints like a member that is the empty string.
    Enum,
    /// The members as the bits of a number.
    Set,
    /// Text that the server refuses as binary bytes: JSON, UUID, INET.
    Text,
}

impl Codec {
    /// Returns the codec for a type as `information_schema.columns.data_type` names it.
    pub fn for_type(data_type: &str) -> Self {
        match data_type.to_ascii_lowercase().as_str() {
            "float" => Self::F64,
            "bit" => Self::Bit,
            "enum" => Self::Enum,
            "set" => Self::Set,
            "json" | "uuid" | "inet4" | "inet6" => Self::Text,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector"
            | "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geometrycollection" | "geomcollection" => Self::Hex,
            _ => Self::Raw,
        }
    }

    /// Returns the expression that reads the column.
    pub fn read(self, column: &str) -> String {
        let name = ident(column);
        match self {
            Self::Raw | Self::Text | Self::Hex => name,
            Self::Bit => format!("HEX({name})"),
            Self::F64 => format!("CAST({name} AS DOUBLE)"),
            // CAST and not `+0`: that is a DOUBLE, and a SET of 64 members would lose some.
            Self::Enum | Self::Set => format!("CAST({name} AS UNSIGNED)"),
        }
    }

    /// Appends `value` as it is stored, before anything in it is escaped. The session must not convert: its results
    /// are binary.
    pub fn push(self, out: &mut Vec<u8>, value: &[u8]) {
        if self == Self::Hex {
            let from = out.len();
            out.resize(from + value.len() * 2, 0);
            for (pair, byte) in out[from..].chunks_exact_mut(2).zip(value) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
        } else {
            push_field(out, Some(value));
        }
    }

    /// Returns the expression that turns `value` back, `None` where the value can be given as it is.
    pub fn write(self, value: &str) -> Option<String> {
        match self {
            Self::Raw | Self::F64 => None,
            Self::Hex => Some(format!("UNHEX({value})")),
            Self::Bit => Some(format!("CAST(CONV({value},16,10) AS UNSIGNED)")),
            Self::Enum | Self::Set => Some(format!("CAST({value} AS UNSIGNED)")),
            Self::Text => Some(format!("CONVERT({value} USING utf8mb4)")),
        }
    }
}

/// How a value of a key column is written as a bound of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// A number, as it is.
    Number,
    /// A number with a fraction and an exponent; without the exponent a server would take it for a DECIMAL.
    Double,
    /// The bits of a number, which are read as hexadecimal digits.
    Bits,
    /// A date or time between quotes.
    Quoted,
    /// A UUID or an address, which a server reads from text only: what a session with binary names quotes is none.
    Word,
    /// Bytes.
    Hex,
    /// Text, with the charset and collation of its column: the server must compare it as it is ordered.
    Text {
        /// The column's charset.
        charset: String,
        /// The column's collation.
        collation: String,
    },
}

impl Bound {
    /// Returns how values of this type bound a range; `None` for types whose order and comparison differ
    /// (an ENUM is ordered by number and compared as text) or that are not worth the risk.
    pub fn for_type(data_type: &str, charset: Option<&str>, collation: Option<&str>) -> Option<Self> {
        match data_type.to_ascii_lowercase().as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => {
                Some(Self::Number)
            }
            "float" | "double" => Some(Self::Double),
            "bit" => Some(Self::Bits),
            "date" | "datetime" | "timestamp" | "time" => Some(Self::Quoted),
            "uuid" | "inet4" | "inet6" => Some(Self::Word),
            "binary" | "varbinary" => Some(Self::Hex),
            "char" | "varchar" => {
                Some(Self::Text { charset: charset?.to_owned(), collation: collation?.to_owned() })
            }
            _ => None,
        }
    }

    /// Returns the value as SQL.
    pub fn literal(&self, value: &[u8]) -> String {
        match self {
            Self::Number => String::from_utf8_lossy(value).into_owned(),
            Self::Double => {
                let number = String::from_utf8_lossy(value);
                let exponent = if number.contains(['e', 'E']) { "" } else { "e0" };
                format!("{number}{exponent}")
            }
            Self::Bits => format!("CAST(CONV('{}',16,10) AS UNSIGNED)", String::from_utf8_lossy(value)),
            Self::Quoted => format!("'{}'", String::from_utf8_lossy(value)),
            Self::Word => format!("_utf8mb4'{}'", String::from_utf8_lossy(value)),
            Self::Hex => format!("x'{}'", hex::encode_upper(value)),
            Self::Text { charset, collation } => {
                format!("_{charset} x'{}' COLLATE {collation}", hex::encode(value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_column_has_its_codec() {
        for (data_type, codec) in [
            ("FLOAT", Codec::F64),
            ("double", Codec::Raw),
            ("longtext", Codec::Raw),
            ("longblob", Codec::Hex),
            ("point", Codec::Hex),
            ("bit", Codec::Bit),
            ("json", Codec::Text),
            ("set", Codec::Set),
        ] {
            assert_eq!(Codec::for_type(data_type), codec, "{data_type}");
        }
    }

    #[test]
    fn bytes_become_digits_and_text_is_escaped() {
        let stored = |codec: Codec, value: &[u8]| {
            let mut out = Vec::new();
            codec.push(&mut out, value);
            out
        };
        assert_eq!(stored(Codec::Hex, b"\x00\t\xff"), b"0009FF");
        assert_eq!(stored(Codec::Hex, b""), b"");
        assert_eq!(stored(Codec::Raw, b"a\tb"), b"a\\tb");
        assert_eq!(Codec::Hex.read("a`"), "`a```");
    }

    #[test]
    fn a_bound_is_compared_as_its_column_is_ordered() {
        let text = Bound::for_type("varchar", Some("latin1"), Some("latin1_german1_ci")).unwrap();
        assert_eq!(text.literal(b"\xe9'"), "_latin1 x'e927' COLLATE latin1_german1_ci");
        assert_eq!(Bound::for_type("bigint", None, None).unwrap().literal(b"-7"), "-7");
        assert_eq!(Bound::for_type("binary", None, None).unwrap().literal(b"\x00\xff"), "x'00FF'");
        let float = Bound::for_type("float", None, None).unwrap();
        assert_eq!((float.literal(b"-0.5").as_str(), float.literal(b"1e-45").as_str()), ("-0.5e0", "1e-45"));
        let bits = Bound::for_type("bit", None, None).unwrap();
        assert_eq!(bits.literal(b"FF"), "CAST(CONV('FF',16,10) AS UNSIGNED)");
        assert_eq!(Bound::for_type("enum", Some("latin1"), Some("latin1_bin")), None);
    }
}
