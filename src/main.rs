//! The `pgstream` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgstream::cli::main().into()
}
