//! The applier, fed with what a real source sends, writing to a real target.

mod faults;
mod lanes;
mod stage;
mod stream;
mod types;
