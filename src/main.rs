//! The `pgstream` program: everything is in the library.

fn main() {}
