//! The private readers of bytes that a server can choose, open to the tests that choose them: `fuzz/`. No program needs
//! them.

use super::wire;

/// The fields of a row as they were read, `None` for NULL.
pub type Fields = Vec<Option<Vec<u8>>>;

/// Reads what a server says from its greeting over the login to the end of one result, and returns the rows; `None`
/// when something in it is refused.
pub async fn session(said: Vec<u8>) -> Option<Vec<Fields>> {
    wire::hear(said).await
}
