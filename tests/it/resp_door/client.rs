//! A client that sends the bytes it is told to and sees the bytes that come back.

use bytes::BytesMut;
use parallax::model::command::Command;
use parallax::model::frame::scan::{Progress, Scanner};
use parallax::model::frame::{Frame, encode};
use parallax::model::reply::Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::sidecar::PATIENCE;
use crate::support::words;

/// A connection of a client.
pub(crate) struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Raw {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends commands as one write.
    pub(crate) async fn send(&mut self, commands: &[Command]) {
        let mut bytes = BytesMut::new();
        commands.iter().for_each(|command| encode::command(&mut bytes, command));
        self.write(&bytes).await;
    }

    /// The next frame; `None` when the connection is at its end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let (mut scanner, mut scanned) = (Scanner::default(), 0);
        loop {
            match scanner.advance(&self.buffer[scanned..]).expect("a frame") {
                Progress::Whole(length) => return Some(Frame::new(self.buffer.split_to(scanned + length).freeze())),
                Progress::Partial(length) => scanned += length,
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
            match read.await.expect("something comes in time") {
                Ok(read) if read > 0 => {}
                Ok(_) | Err(_) => {
                    assert!(self.buffer.is_empty(), "half a frame, and then the end: {:?}", self.buffer);
                    return None;
                }
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        self.next().await.expect("a frame, not the end")
    }

    pub(crate) async fn frames(&mut self, count: usize) -> Vec<Frame> {
        let mut frames = Vec::with_capacity(count);
        while frames.len() < count {
            frames.push(self.frame().await);
        }
        frames
    }

    /// One command whose parts stand between spaces.
    pub(crate) async fn ask(&mut self, line: &str) -> Reply {
        self.send(&[command(line)]).await;
        self.frame().await.decode()
    }

    /// The same as text, as a person would see it.
    pub(crate) async fn see(&mut self, line: &str) -> String {
        self.send(&[command(line)]).await;
        String::from_utf8_lossy(self.frame().await.bytes()).into_owned()
    }

    /// All bytes until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = self.buffer.split().to_vec();
        tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest))
            .await
            .expect("the end comes in time")
            .unwrap();
        rest
    }
}

/// The command whose parts stand between spaces.
pub(crate) fn command(line: &str) -> Command {
    Command::new(words(line))
}
