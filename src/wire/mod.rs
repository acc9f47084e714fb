//! How we talk to a server: frames, login, TLS, COPY, and ordinary sessions.

mod session;

pub use session::{Session, SessionSettings};
