//! The commands that belong to a connection: AUTH, HELLO, SELECT, CLIENT, RESET, QUIT, and those that need a connection of
//! the client's own. Their errors are Redis' own, word for word.

use bytes::Bytes;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::doors::resp::client::{Client, Go};
use crate::doors::resp::output::Replies;
use crate::doors::resp::own::is_about_itself;
use crate::doors::resp::parse::Trust;
use crate::doors::resp::subscribed::is_subscription;
use crate::model::command::Command;
use crate::model::frame::{Protocol, encode};
use crate::telemetry::labels::Door;

/// The connection is shared, or will be, and scripts of ours go over it.
const NO_DEBUGGER: &[u8] = b"-PARALLAX SCRIPT DEBUG is refused: debug a script on a connection to Redis itself\r\n";
const OK: &[u8] = b"+OK\r\n";
const SYNTAX: &[u8] = b"-ERR syntax error\r\n";
const WRONG_PASSWORD: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const NO_PASSWORD: &[u8] = b"-ERR AUTH <password> called without any password configured for the default user. \
    Are you sure your configuration is correct?\r\n";
const HELLO_FIRST: &[u8] = b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
    <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
    the same time\r\n";
const BAD_NAME: &[u8] = b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n";

impl Client {
    /// Whether a client may send this before it has said who it is.
    pub(super) fn may_come_first(&self, command: &Command) -> bool {
        matches!(command.name().as_str(), "AUTH" | "HELLO" | "QUIT" | "RESET")
    }

    /// Serves a command that belongs to the connection.
    pub(super) async fn connection_command(&mut self, command: Command) -> Go {
        let name = command.name();
        match name.as_str() {
            "AUTH" => self.auth(&command).await,
            "HELLO" => return self.hello(&command).await,
            "QUIT" => {
                self.answer(OK).await;
                return Go::Ends;
            }
            "SCRIPT" => self.answer(NO_DEBUGGER).await,
            // What a browser says, sent here by somebody else's page: Redis hangs up, and would do so to all of us.
            "POST" | "HOST:" => {
                self.output.answered().await;
                return Go::Ends;
            }
            "RESET" if command.0.len() == 1 => self.reset().await,
            "SELECT" => return self.select(&command).await,
            "CLIENT" => return self.client(&command).await,
            "MULTI" if command.0.len() == 1 => return self.multi(&command).await,
            "WATCH" if command.0.len() > 1 => return self.watch(&command).await,
            "UNWATCH" if self.own.is_some() => return self.watch(&command).await,
            "MONITOR" | "SYNC" | "PSYNC" if command.0.len() == 1 || name != "MONITOR" => {
                return self.pipe(&command).await;
            }
            // It tells of the connection, and makes no replica of it yet.
            "REPLCONF" => return self.pin(&command).await,
            name if is_subscription(name) => return self.synchronised(&command).await,
            // EXEC and DISCARD without MULTI, too few arguments, and what only a cluster has: Redis says what is wrong.
            _ => self.forward_one(&command).await,
        }
        Go::On
    }

    async fn auth(&mut self, command: &Command) {
        let answer = match (command.0.len(), &self.thread.password) {
            (2, None) => NO_PASSWORD,
            (2, Some(_)) => self.login(b"default", command.arg(1)),
            (3, _) => self.login(command.arg(1).map_or(b"", |user| user.as_ref()), command.arg(2)),
            (1, _) => b"-ERR wrong number of arguments for 'auth' command\r\n",
            (_, _) => SYNTAX,
        };
        self.answer(answer).await;
    }

    /// Lets a user in, or not. Without a password the default user may come with any.
    fn login(&mut self, user: &[u8], password: Option<&Bytes>) -> &'static [u8] {
        let is_right = match (&self.thread.password, password) {
            (None, Some(_)) => true,
            (Some(wanted), Some(given)) => {
                let wanted = Sha256::digest(wanted.expose_secret().as_bytes());
                bool::from(wanted.ct_eq(&Sha256::digest(given)))
            }
            (_, None) => false,
        };
        if is_right && user == b"default" {
            self.trust = Trust::Known;
            return OK;
        }
        self.thread.metrics.auth_failed(Door::Resp);
        WRONG_PASSWORD
    }

    /// HELLO: who it is and its name are ours to know, the rest of the answer is Redis' own.
    async fn hello(&mut self, command: &Command) -> Go {
        let mut protocol = self.protocol;
        let mut asked = vec![Bytes::from_static(b"HELLO")];
        let mut name = None;
        if let Some(version) = command.arg(1) {
            asked.push(version.clone());
            match version.as_ref() {
                b"2" => protocol = Protocol::Resp2,
                b"3" => protocol = Protocol::Resp3,
                // Redis says what is wrong with it.
                _ => {
                    self.forward_one(&Command(asked)).await;
                    return Go::On;
                }
            }
        }
        let mut at = 2;
        while at < command.0.len() {
            if command.is_word(at, "AUTH") && at + 2 < command.0.len() {
                let user = command.arg(at + 1).cloned().unwrap_or_default();
                let answer = self.login(&user, command.arg(at + 2));
                if answer != OK {
                    self.answer(answer).await;
                    return Go::On;
                }
                at += 3;
            } else if command.is_word(at, "SETNAME") && at + 1 < command.0.len() {
                name = command.arg(at + 1).cloned();
                at += 2;
            } else {
                let option = String::from_utf8_lossy(command.arg(at).map_or(b"", |word| word.as_ref())).into_owned();
                self.answer(format!("-ERR Syntax error in HELLO option '{option}'\r\n").as_bytes()).await;
                return Go::On;
            }
        }
        if self.trust == Trust::Unknown {
            self.answer(HELLO_FIRST).await;
            return Go::On;
        }
        if let Some(name) = name {
            if !is_name(&name) {
                self.answer(BAD_NAME).await;
                return Go::On;
            }
            self.name = Some(name);
        }
        self.output.answered().await;
        self.protocol = protocol;
        self.forward_hello(&Command(asked)).await
    }

    /// RESET: as if the client had connected anew.
    pub(super) async fn reset(&mut self) {
        self.output.answered().await;
        self.forget_own();
        self.protocol = Protocol::Resp2;
        self.name = None;
        self.trust = self.thread.first_trust();
        self.output.set_replies(Replies::On);
        self.output.reply(b"+RESET\r\n");
    }

    async fn client(&mut self, command: &Command) -> Go {
        let count = command.0.len();
        if command.is_word(1, "SETNAME") && count == 3 {
            let name = command.arg(2).cloned().unwrap_or_default();
            if is_name(&name) {
                self.name = Some(name).filter(|name| !name.is_empty());
                self.answer(OK).await;
            } else {
                self.answer(BAD_NAME).await;
            }
        } else if command.is_word(1, "GETNAME") && count == 2 {
            let mut out = Vec::new();
            let name = self.name.clone().map_or(crate::model::reply::Reply::Nil, crate::model::reply::Reply::Bulk);
            encode::reply(&mut out, &name, self.protocol);
            self.answer(&out).await;
        } else if command.is_word(1, "REPLY") && count == 3 {
            self.client_reply(command).await;
        } else if is_about_itself(command) {
            return self.pin(command).await;
        } else {
            self.forward_one(command).await;
        }
        Go::On
    }

    /// Whether this client hears replies is known here alone: our own commands between its commands need theirs.
    async fn client_reply(&mut self, command: &Command) {
        self.output.answered().await;
        if command.is_word(2, "ON") {
            self.output.set_replies(Replies::On);
            self.output.reply(OK);
        } else if command.is_word(2, "OFF") {
            self.output.set_replies(Replies::Off);
        } else if command.is_word(2, "SKIP") {
            self.output.skip_next();
        } else {
            self.output.reply(SYNTAX);
        }
    }
}

/// A name that Redis takes for a client.
fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}
