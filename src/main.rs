//! The `lifeboat` program: parses, runs, prints the failure and exits.

use std::process::ExitCode;

/// Work on blocking threads comes and goes in large pieces. The allocator of glibc keeps for each thread what it once
/// had, and a service that stays up for months would hold a hundred times what it uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(lifeboat::cli::main().number())
}
