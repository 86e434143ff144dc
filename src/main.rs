//! The `lifeboat` program: parses, runs, prints the failure and exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(lifeboat::cli::main().number())
}
