//! How we talk to a server: frames, login, TLS, COPY, and ordinary sessions.
//!
//! Hazards, and where they are met:
//!
//! - Settings of a role change the bytes we read, and time out long work: every connection is pinned, and the
//!   pins are looked at after the login (`pins`, P59, P90, P91).
//! - Idle connections are cut in silence on the way (`socket`, P92).
//! - Six `sslmode`s, two of which protect nobody; methods of login that hand out the password (`tls`,
//!   `auth`, P93).
//! - A peer's bytes must not panic us nor make us allocate what they claim (`frame`, `message`,
//!   `certificate`: total, and tested to be).
//! - A future may be dropped anywhere: bytes and state live in [`Connection`], and what cannot be taken up
//!   again refuses further use (`connection`, `copy`).
//! - Two servers joined by a COPY may both fail, at any moment ([`splice()`], `ring`, `join`, `batch`); how fast is a matter of
//!   `throttle`.
//!
//! ```text
//! connect ─▶ socket (tls) ─▶ login (auth, pins) ─▶ Connection ─┬─ query, execute      (simple protocol)
//!    hosts, addresses, sslmode                                 ├─ pipeline            (extended protocol, apply)
//!                                                              ├─ copy_both           (replication)
//!                                                              ├─ splice              (bulk copy)
//!                                                              └─ handover ─▶ Session (tokio-postgres)
//! ```
//!
//! There is one login, and all kinds of connection come out of it.

mod auth;
mod batch;
mod body;
mod cancel;
mod certificate;
mod connect;
mod connection;
mod copy;
mod frame;
mod handover;
mod join;
mod login;
mod message;
mod pins;
mod pipeline;
mod ring;
mod row;
mod server_error;
mod session;
mod socket;
mod splice;
#[cfg(test)]
mod testing;
mod throttle;
mod tls;
mod unwatched;

pub use auth::AuthError;
pub use batch::{Stored, WholeCopy};
pub use body::MessageError;
pub use cancel::CancelToken;
pub use connection::{Connection, ConnectionSettings};
pub use copy::{CopyBothReader, CopyBothWriter, CopyIn, CopyOut};
pub use frame::{FRAME_BYTES_MAX, Frame, FrameBuffer, FrameError, LOGIN_FRAME_BYTES_MAX};
pub use message::{
    Authentication, BackendKey, BackendMessage, CommandTag, CopyFormat, CopyShape, TransactionStatus,
};
pub use pins::Mode;
pub use pipeline::{Payload, Pipelined, Request, StatementId};
pub use row::{Column, Row};
pub use server_error::{ServerError, Severity};
pub use session::{Session, SessionSettings};
pub use socket::SocketError;
pub use splice::{Meter, Spliced, splice};
pub use throttle::Throttle;
