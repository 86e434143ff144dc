//! The order of members inside a value: of hashes and sets that lie in a table it depends on a seed of the server.

use super::{
    Flavour, RdbError, Tape,
    encoding::{number, skip_string},
    value::times,
};

/// Bytes of a value that are put in order: each member needs twelve more meanwhile.
pub(crate) const ORDERED_BYTES_MAX: usize = 4 << 20;

/// Returns whether the members of a value of this type lie in a hash table, so that their order means nothing.
pub(crate) fn are_tabled(code: u8) -> bool {
    matches!(code, 2 | 4 | 22 | 24)
}

/// Appends a value to `ordered`, its members in ascending order unless their order means something.
pub(crate) fn put_in_order(
    ordered: &mut Vec<u8>,
    flavour: Flavour,
    code: u8,
    value: &[u8],
) -> Result<(), RdbError> {
    if !are_tabled(code) || value.len() > ORDERED_BYTES_MAX {
        ordered.extend_from_slice(value);
        return Ok(());
    }
    let mut tape = Tape::over(value);
    // The earliest expiry of all fields stands before their number.
    tape.skip(if code == 24 { 8 } else { 0 })?;
    let mut members: Vec<Member> = Vec::new();
    let mut begin = 0;
    times(&mut tape, |tape| {
        if members.is_empty() {
            begin = here(tape);
        }
        let from = here(tape);
        let is_ahead = code == 24 || code == 22 && flavour == Flavour::Redis;
        if is_ahead {
            number(tape)?;
        }
        let name = here(tape);
        skip_string(tape)?;
        if code != 2 {
            skip_string(tape)?;
        }
        tape.skip(if code == 22 && flavour == Flavour::Valkey { 8 } else { 0 })?;
        members.push(Member { from, name, end: here(tape) });
        Ok(())
    })?;
    let behind = here(&tape);
    let bytes = |from: u32, end: u32| &value[from as usize..end as usize];
    members.sort_by(|one, two| bytes(one.name, one.end).cmp(bytes(two.name, two.end)));
    ordered.extend_from_slice(bytes(0, if members.is_empty() { behind } else { begin }));
    for member in &members {
        ordered.extend_from_slice(bytes(member.from, member.end));
    }
    ordered.extend_from_slice(&value[behind as usize..]);
    Ok(())
}

/// Where a member lies in its value: with what stands before its name, from its name on, and its end.
struct Member {
    from: u32,
    name: u32,
    end: u32,
}

/// Returns where a tape over a slice is in it.
fn here(tape: &Tape<&[u8]>) -> u32 {
    u32::try_from(tape.offset()).unwrap_or(u32::MAX)
}
