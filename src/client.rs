//! A small HTTP client with one kept-alive connection, for the doors: it speaks as any caller would.
//!
//! The operators' commands reach the admin door by it, and the traffic of the demo and the stories both doors.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

/// No answer of a door may take longer: its own deadlines are shorter.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke.
    #[error("the door at {door} cannot be reached: {reason}")]
    Connection {
        /// Where the door should be.
        door: String,
        /// What went wrong.
        reason: String,
    },
    /// No answer within the deadline.
    #[error("the door at {0} did not answer in time")]
    Deadline(String),
    /// An answer, but with another status than asked for.
    #[error("{method} {path} was answered with {status}: {body}")]
    Status {
        /// The method of the request.
        method: Method,
        /// The path of the request.
        path: String,
        /// What the door answered.
        status: StatusCode,
        /// The beginning of its body: problem+json never carries values.
        body: String,
    },
    /// An answer whose body is not JSON.
    #[error("the answer to {0} is not JSON")]
    Json(String),
}

/// What a door answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`ClientError::Json`] when it is not.
    pub fn json(&self) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Json(error.to_string()))
    }
}

/// One connection to one door; it is made when first needed and again after it broke.
#[derive(Debug)]
pub struct Client {
    door: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of the door at `door` (`127.0.0.1:8380`).
    #[must_use]
    pub fn new(door: impl Into<String>) -> Self {
        Self { door: door.into(), connection: None }
    }

    /// Sends one request and reads the whole answer, whatever its status.
    ///
    /// A request on a kept-alive connection that broke is not sent again: it may have been executed.
    ///
    /// # Errors
    /// [`ClientError::Connection`] and [`ClientError::Deadline`].
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let broken = |reason: String| ClientError::Connection { door: self.door.clone(), reason };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.door);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| broken(error.to_string()))?;
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => connect(&self.door).await?,
        };
        let exchange = async {
            connection.ready().await?;
            let answer = connection.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Answer { status: head.status, headers: head.headers, body })
        };
        match timeout(ANSWER_DEADLINE, exchange).await {
            Ok(Ok(answer)) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(error)) => Err(ClientError::Connection { door: self.door.clone(), reason: error.to_string() }),
            Err(_) => Err(ClientError::Deadline(self.door.clone())),
        }
    }

    /// Sends JSON and reads JSON; any status outside 200 to 299 is an error.
    ///
    /// # Errors
    /// All of [`ClientError`].
    pub async fn json(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let mut all = headers.to_vec();
        let bytes = match body {
            Some(value) => {
                if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                    all.push(("content-type", "application/json"));
                }
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let answer = self.send(method.clone(), path, &all, bytes).await?;
        if !answer.status.is_success() {
            let body = String::from_utf8_lossy(&answer.body).chars().take(600).collect();
            return Err(ClientError::Status { method, path: path.to_owned(), status: answer.status, body });
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        answer.json()
    }
}

async fn connect(door: &str) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let broken = |reason: String| ClientError::Connection { door: door.to_owned(), reason };
    let socket = TcpStream::connect(door).await.map_err(|error| broken(error.to_string()))?;
    socket.set_nodelay(true).map_err(|error| broken(error.to_string()))?;
    let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(|error| broken(error.to_string()))?;
    // It ends by itself when the sender is dropped or the door closes; the next request sees either.
    tokio::spawn(connection);
    Ok(sender)
}
