//! A connection that speaks the replication protocol, until its stream begins.
//!
//! The handshakes are the library's, `pgwire_replication`; what flows afterwards is read [here](super::feed).

use super::feed::Feed;
use super::frames::Frames;
use crate::error::{Error, Result};
use crate::source::postgres::input::Input;
use crate::source::postgres::target::{APPLICATION, Target};
use pgwire_replication::auth::ScramClient;
use pgwire_replication::protocol::framing::{write_password_message, write_query, write_startup_message};
use pgwire_replication::protocol::messages::{auth, parse_error_response};
use pgwire_replication::tls::rustls::{MaybeTlsStream, maybe_upgrade_to_tls};
use pgwire_replication::{Lsn, PgWireError};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long a server has to let us in.
const PATIENCE: Duration = Duration::from_secs(15);

/// Protocol 3.0.
const VERSION: i32 = 3 << 16;

/// How values come that have no binary form, or are not asked for in it.
const OPTIONS: &str = "-c timezone=UTC -c datestyle=ISO -c bytea_output=hex";

/// A connection's bytes: plain, encrypted, or of this machine's own sockets.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for S {}

pub(super) type Socket = Box<dyn Duplex>;

/// A session that has not begun to stream.
pub(super) struct Connection {
    socket: Socket,
    frames: Frames,
}

/// Which stream to begin.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) slot: &'a str,
    /// What was acknowledged last; 0 leaves it to the slot.
    pub(super) from: u64,
    pub(super) publication: &'a str,
    /// Whether values may come in binary.
    pub(super) binary: bool,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self> {
        let opened = tokio::time::timeout(PATIENCE, async {
            let mut connection = Self { socket: connect(target).await?, frames: Frames::default() };
            connection.log_in(target).await?;
            Ok(connection)
        });
        opened.await.map_err(|_| Error::Replication(format!("no session within {PATIENCE:?}")))?
    }

    async fn log_in(&mut self, target: &Target) -> Result<()> {
        let parameters = [
            ("user", &*target.user),
            ("database", &target.database),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", APPLICATION),
            ("options", OPTIONS),
        ];
        write_startup_message(&mut self.socket, VERSION, &parameters).await.map_err(failed)?;
        loop {
            match self.next().await? {
                (b'R', request) => self.authenticate(target, &request).await?,
                (b'Z', _) => return Ok(()),
                _ => {}
            }
        }
    }

    async fn authenticate(&mut self, target: &Target, request: &[u8]) -> Result<()> {
        let mut input = Input::new(request);
        match input.u32().map_err(Error::Replication)?.cast_signed() {
            auth::OK => Ok(()),
            auth::CLEARTEXT_PASSWORD => {
                let password = [target.password.as_bytes(), b"\0"].concat();
                write_password_message(&mut self.socket, &password).await.map_err(failed)
            }
            auth::SASL => self.prove(target, input.rest()).await,
            other => Err(Error::Replication(format!(
                "the server asks for a way of authentication (number {other}) that streaming does not know: it \
                 knows scram-sha-256 and password"
            ))),
        }
    }

    /// SCRAM-SHA-256, RFC 5802 and 7677.
    async fn prove(&mut self, target: &Target, mechanisms: &[u8]) -> Result<()> {
        const MECHANISM: &[u8] = b"SCRAM-SHA-256";
        if !mechanisms.split(|byte| *byte == 0).any(|name| name == MECHANISM) {
            let offered = String::from_utf8_lossy(mechanisms).replace('\0', " ");
            return Err(Error::Replication(format!(
                "of {offered:?} streaming knows none: it knows scram-sha-256"
            )));
        }
        let scram = ScramClient::new(&target.user);
        let first = scram.client_first.as_bytes();
        let length = u32::try_from(first.len()).expect("short").to_be_bytes();
        let initial = [MECHANISM, b"\0", &length, first].concat();
        write_password_message(&mut self.socket, &initial).await.map_err(failed)?;
        let challenge = self.challenge(auth::SASL_CONTINUE).await?;
        let (answer, message, salted) = scram.client_final(&target.password, &challenge).map_err(failed)?;
        write_password_message(&mut self.socket, answer.as_bytes()).await.map_err(failed)?;
        let last = self.challenge(auth::SASL_FINAL).await?;
        ScramClient::verify_server_final(&last, &salted, &message).map_err(failed)
    }

    async fn challenge(&mut self, step: i32) -> Result<String> {
        loop {
            let (kind, body) = self.next().await?;
            let mut input = Input::new(&body);
            if kind == b'R' && input.u32().map_err(Error::Replication)?.cast_signed() == step {
                return Ok(String::from_utf8_lossy(input.rest()).into_owned());
            }
        }
    }

    /// The first row of a statement's answer, as text.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Option<String>>> {
        write_query(&mut self.socket, sql).await.map_err(failed)?;
        let mut row = Vec::new();
        loop {
            match self.next().await? {
                (b'D', body) if row.is_empty() => row = cells(&body).map_err(Error::Replication)?,
                (b'Z', _) => return Ok(row),
                _ => {}
            }
        }
    }

    /// Begins the stream.
    pub(super) async fn start(mut self, start: &Start<'_>) -> Result<Feed> {
        let Start { slot, from, publication, binary } = start;
        // A list of identifiers in a literal: quoted as both.
        let publication = publication.replace('"', "\"\"").replace('\'', "''");
        let binary = if *binary { ", binary 'true'" } else { "" };
        let sql = format!(
            "START_REPLICATION SLOT {slot} LOGICAL {} \
             (proto_version '1', publication_names '\"{publication}\"', messages 'true'{binary})",
            Lsn::from_u64(*from)
        );
        write_query(&mut self.socket, &sql).await.map_err(failed)?;
        // CopyBothResponse
        while self.next().await?.0 != b'W' {}
        Ok(Feed::new(self.socket, self.frames, *from))
    }

    /// The next message that is no error.
    async fn next(&mut self) -> Result<(u8, Vec<u8>)> {
        let frame = self.frames.next(&mut self.socket).await.map_err(broken)?;
        match frame.kind {
            b'E' => Err(Error::Replication(parse_error_response(frame.body))),
            kind => Ok((kind, frame.body.to_vec())),
        }
    }
}

async fn connect(target: &Target) -> Result<Socket> {
    let (host, port) = (&*target.host, target.port);
    if host.starts_with('/') {
        let path = Path::new(host).join(format!(".s.PGSQL.{port}"));
        return Ok(Box::new(UnixStream::connect(path).await.map_err(broken)?));
    }
    let socket = TcpStream::connect((host, port)).await.map_err(broken)?;
    socket.set_nodelay(true).map_err(broken)?;
    Ok(match maybe_upgrade_to_tls(socket, &target.tls, host).await.map_err(failed)? {
        MaybeTlsStream::Plain(plain) => Box::new(plain),
        MaybeTlsStream::Tls(encrypted) => encrypted,
    })
}

/// A row's values.
fn cells(body: &[u8]) -> std::result::Result<Vec<Option<String>>, String> {
    let mut input = Input::new(body);
    let columns = input.u16()?;
    let cell = |_| match input.u32()? {
        u32::MAX => Ok(None),
        length => Ok(Some(String::from_utf8_lossy(input.take(length as usize)?).into_owned())),
    };
    (0..columns).map(cell).collect()
}

fn failed(error: PgWireError) -> Error {
    Error::Replication(error.to_string())
}

pub(super) fn broken(error: std::io::Error) -> Error {
    Error::Replication(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::target;
    use tokio::io::AsyncWriteExt as _;

    /// What becomes of a login that the server answers with this.
    async fn answered(answer: &[u8]) -> Result<()> {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(answer).await.expect("there is room");
        let target = target::parse("postgres://relay:secret@localhost/shop").expect("a whole URL");
        Connection { socket: Box::new(near), frames: Frames::default() }.log_in(&target).await
    }

    #[tokio::test]
    async fn a_login_that_fails_says_why() {
        for (answer, problem) in [
            // MD5, and its salt.
            (
                &b"R\0\0\0\x0c\0\0\0\x05salt"[..],
                "(number 5) that streaming does not know: it knows scram-sha-256",
            ),
            (b"R\0\0\0\x0f\0\0\0\x0aOTHER\0\0", "of \"OTHER  \" streaming knows none"),
            (b"E\0\0\0\x18SFATAL\0C28000\0Mno!\0\0", "no!"),
            (b"R\0\0\0\x05\0", "a message is cut short"),
        ] {
            let error = answered(answer).await.expect_err(problem).to_string();
            assert!(error.contains(problem), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        answered(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.expect("no password is asked for");
    }
}
