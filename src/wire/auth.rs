//! The login as a conversation: what the server asks, what we answer. No socket here.
//!
//! Hazard: the server chooses the method, and a false server would choose one that hands it the password,
//! or would skip the proof that it knows it. So `AuthenticationOk` counts only when SCRAM, once begun, was
//! finished, and `channel_binding=require` accepts nothing but SCRAM bound to this very TLS channel (P93).
//! (docs: `sasl-authentication`; libpq: fe-auth.c)

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use crate::pg::{ChannelBindingMode, Conninfo, Host, Secret};
use crate::wire::message::Authentication;

/// Why a login cannot go on; the server's own refusals are not among these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no password to answer with.
    #[error("the server asked for a password, and none was given")]
    NoPassword,
    /// A method we do not have.
    #[error("the server asked for {method} authentication, which is not supported")]
    Unsupported {
        /// Its name.
        method: String,
    },
    /// `channel_binding=require` cannot be met.
    #[error("channel binding is required, and the server {instead}")]
    NoChannelBinding {
        /// What the server did or offered in its place.
        instead: &'static str,
    },
    /// SCRAM was not finished.
    #[error("the server let us in without proving that it knows the password")]
    ServerUnproven,
    /// SCRAM failed.
    #[error("SCRAM exchange broken: {0}")]
    Scram(String),
    /// A step out of order.
    #[error("the server sent {step} out of order")]
    OutOfOrder {
        /// The step.
        step: &'static str,
    },
    /// Something of ours that cannot be sent.
    #[error("the password contains a zero byte")]
    UnsendablePassword,
}

/// What to do after a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Send these bytes, a whole message.
    Send(BytesMut),
    /// Wait for the next message.
    Wait,
    /// Logged in.
    Done,
}

/// What the channel below offers to a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel<'a> {
    /// Not encrypted.
    Plain,
    /// TLS; the hash of the server's certificate where there is one to bind to.
    Tls { end_point: Option<&'a [u8]> },
}

/// ```text
/// Asked ──Sasl──▶ Challenged ──SaslContinue──▶ Answered ──SaslFinal──▶ Proven ──Ok──▶ done
///   └──Cleartext/Md5──▶ Proven ──Ok──▶ done        (Ok straight away: `trust`, `peer`, `cert`)
/// ```
enum State {
    Asked,
    Challenged(ScramSha256),
    Answered(ScramSha256),
    Proven,
}

/// One login in progress.
pub(super) struct Login<'a> {
    conninfo: &'a Conninfo,
    /// For this host: each may have its own in a passfile.
    password: Option<&'a Secret>,
    channel: Channel<'a>,
    bound: bool,
    state: State,
}

impl<'a> Login<'a> {
    /// To `host`, one of the string's own: a password never goes to another than it was given for.
    pub(super) fn new(conninfo: &'a Conninfo, host: &Host, channel: Channel<'a>) -> Login<'a> {
        let password = conninfo.password_for(host);
        Login { conninfo, password, channel, bound: false, state: State::Asked }
    }

    /// Answers one step of the server's.
    pub(super) fn step(&mut self, step: Authentication) -> Result<Reply, AuthError> {
        match (step, std::mem::replace(&mut self.state, State::Proven)) {
            (Authentication::Ok, State::Asked) => self.unbound("asked for no proof").map(|()| Reply::Done),
            (Authentication::Ok, State::Proven) => Ok(Reply::Done),
            (Authentication::Ok, State::Challenged(_) | State::Answered(_)) => Err(AuthError::ServerUnproven),
            (Authentication::Unsupported { method }, _) => {
                Err(AuthError::Unsupported { method: method.to_owned() })
            }
            (Authentication::CleartextPassword, State::Asked) => {
                self.unbound("asked for the password itself")?;
                if self.channel == Channel::Plain {
                    tracing::warn!("sending the password in clear over an unencrypted connection");
                }
                password_message(self.password()?.as_bytes())
            }
            (Authentication::Md5Password { salt }, State::Asked) => {
                self.unbound("asked for MD5")?;
                let hash = md5_hash(self.conninfo.user.as_bytes(), self.password()?.as_bytes(), salt);
                password_message(hash.as_bytes())
            }
            (Authentication::Sasl { mechanisms }, State::Asked) => self.begin_scram(&mechanisms),
            (Authentication::SaslContinue(challenge), State::Challenged(mut scram)) => {
                scram.update(&challenge).map_err(broken)?;
                let mut message = BytesMut::new();
                frontend::sasl_response(scram.message(), &mut message).map_err(broken)?;
                self.state = State::Answered(scram);
                Ok(Reply::Send(message))
            }
            (Authentication::SaslFinal(proof), State::Answered(mut scram)) => {
                scram.finish(&proof).map_err(broken)?;
                Ok(Reply::Wait)
            }
            (Authentication::CleartextPassword, _) => Err(out_of_order("AuthenticationCleartextPassword")),
            (Authentication::Md5Password { .. }, _) => Err(out_of_order("AuthenticationMD5Password")),
            (Authentication::Sasl { .. }, _) => Err(out_of_order("AuthenticationSASL")),
            (Authentication::SaslContinue(_), _) => Err(out_of_order("AuthenticationSASLContinue")),
            (Authentication::SaslFinal(_), _) => Err(out_of_order("AuthenticationSASLFinal")),
        }
    }

    fn begin_scram(&mut self, mechanisms: &[String]) -> Result<Reply, AuthError> {
        let offers = |name| mechanisms.iter().any(|mechanism| mechanism == name);
        let end_point = match self.channel {
            Channel::Tls { end_point } if self.conninfo.channel_binding != ChannelBindingMode::Disable => {
                end_point
            }
            Channel::Tls { .. } | Channel::Plain => None,
        };
        let (mechanism, binding) = match end_point {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                self.bound = true;
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.to_vec()))
            }
            // "We could, you did not offer": a server that did offer then knows that someone cut it out.
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(AuthError::Unsupported { method: format!("SASL ({})", mechanisms.join(", ")) });
        }
        self.unbound("offered no channel binding that we can use")?;
        let scram = ScramSha256::new(self.password()?.as_bytes(), binding);
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut message).map_err(broken)?;
        self.state = State::Challenged(scram);
        Ok(Reply::Send(message))
    }

    fn unbound(&self, instead: &'static str) -> Result<(), AuthError> {
        match self.conninfo.channel_binding {
            ChannelBindingMode::Require if !self.bound => Err(AuthError::NoChannelBinding { instead }),
            ChannelBindingMode::Require | ChannelBindingMode::Prefer | ChannelBindingMode::Disable => Ok(()),
        }
    }

    fn password(&self) -> Result<&'a str, AuthError> {
        self.password.map(Secret::reveal).filter(|password| !password.is_empty()).ok_or(AuthError::NoPassword)
    }
}

fn password_message(password: &[u8]) -> Result<Reply, AuthError> {
    let mut message = BytesMut::new();
    frontend::password_message(password, &mut message).map_err(|_| AuthError::UnsendablePassword)?;
    Ok(Reply::Send(message))
}

fn broken(error: std::io::Error) -> AuthError {
    AuthError::Scram(error.to_string())
}

fn out_of_order(step: &'static str) -> AuthError {
    AuthError::OutOfOrder { step }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{HostName, Passfile};
    use crate::wire::testing::conninfo;

    const TLS: Channel<'_> = Channel::Tls { end_point: Some(b"hash of a certificate") };

    fn with_password(channel_binding: ChannelBindingMode) -> Conninfo {
        Conninfo { password: Some(Secret::new("secret")), channel_binding, ..conninfo() }
    }

    fn login<'a>(conninfo: &'a Conninfo, channel: Channel<'a>) -> Login<'a> {
        Login::new(conninfo, &conninfo.hosts[0], channel)
    }

    fn scram(plus: &str) -> Authentication {
        Authentication::Sasl { mechanisms: vec![format!("SCRAM-SHA-256{plus}"), "SCRAM-SHA-256".into()] }
    }

    #[test]
    fn trust_needs_no_answer() {
        let conninfo = conninfo();
        assert_eq!(login(&conninfo, Channel::Plain).step(Authentication::Ok), Ok(Reply::Done));
    }

    #[test]
    fn says_that_a_password_is_missing() {
        let conninfo = conninfo();
        for step in
            [Authentication::CleartextPassword, Authentication::Md5Password { salt: [1, 2, 3, 4] }, scram("")]
        {
            let refused = login(&conninfo, Channel::Plain).step(step);
            assert_eq!(refused, Err(AuthError::NoPassword));
        }
    }

    #[test]
    fn each_host_is_sent_its_own_password() {
        let host = |name: &str| Host { name: HostName::Tcp(name.to_owned()), hostaddr: None, port: 5432 };
        let passfile = Passfile::parse("a:*:*:*:secret of a\nb:*:*:*:secret of b\n");
        let conninfo = Conninfo { hosts: vec![host("a"), host("b"), host("c")], passfile, ..conninfo() };
        let sent = |position: usize| {
            let mut login = Login::new(&conninfo, &conninfo.hosts[position], Channel::Plain);
            match login.step(Authentication::CleartextPassword) {
                Ok(Reply::Send(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            }
        };
        assert!(sent(0).unwrap().contains("secret of a"));
        assert!(sent(1).unwrap().contains("secret of b"));
        assert_eq!(sent(2), Err(AuthError::NoPassword));
    }

    #[test]
    fn names_the_method_it_lacks() {
        let conninfo = conninfo();
        let step = Authentication::Unsupported { method: "GSSAPI" };
        let refused = login(&conninfo, Channel::Plain).step(step).unwrap_err();
        assert_eq!(refused.to_string(), "the server asked for GSSAPI authentication, which is not supported");
    }

    #[test]
    fn binds_to_the_channel_when_both_can() {
        let conninfo = with_password(ChannelBindingMode::Prefer);
        let first = |channel, step| match login(&conninfo, channel).step(step) {
            Ok(Reply::Send(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            other => panic!("{other:?}"),
        };
        let bound = first(TLS, scram("-PLUS"));
        assert!(bound.contains("SCRAM-SHA-256-PLUS") && bound.contains("p=tls-server-end-point,,"));
        assert!(first(TLS, scram("")).contains("y,,"), "tell the server that we could have");
        assert!(first(Channel::Plain, scram("")).contains("n,,"));
    }

    #[test]
    fn required_binding_accepts_nothing_less() {
        let conninfo = with_password(ChannelBindingMode::Require);
        for step in [Authentication::Ok, Authentication::CleartextPassword, scram("")] {
            let refused = login(&conninfo, TLS).step(step);
            assert!(matches!(refused, Err(AuthError::NoChannelBinding { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_server_must_finish_what_it_began() {
        let conninfo = with_password(ChannelBindingMode::Prefer);
        let mut login = login(&conninfo, TLS);
        login.step(scram("-PLUS")).unwrap();
        assert_eq!(login.step(Authentication::Ok), Err(AuthError::ServerUnproven));
    }
}
