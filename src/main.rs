//! The command line: parses, runs, prints the failure and exits.

fn main() {}
