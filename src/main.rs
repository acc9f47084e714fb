//! The `pgstream` program: everything is in the library.

use std::process::ExitCode;

/// Definitions and catalogs of thousands of tables come and go in small pieces, from one thread to another; what is
/// given back does not stay resident here.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pgstream::cli::main().into()
}
