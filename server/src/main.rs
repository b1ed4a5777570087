//! The `thalweg` command: parses arguments and hands over to the library.
//!
//! Invariant: stdout carries only what was asked for (the `ready` line, query results); logs go to stderr. Exit codes: 0 ok,
//! 1 user error, 2 internal error.

use std::process::ExitCode;

use clap::Parser as _;

/// Epochs build and drop batches of megabytes; an allocator that gives their pages back pays for fresh ones each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match thalweg::cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version are not failures; anything else is the user's to correct.
            let code = if error.use_stderr() { 1 } else { 0 };
            let _unwritable = error.print();
            return ExitCode::from(code);
        }
    };
    thalweg::cli::run(arguments)
}
