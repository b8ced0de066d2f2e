//! The Redis protocol as bare as it gets: prepared bytes out, replies counted. What it measures is the server alone.

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use parallax::traffic::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};

/// The bytes of these commands, one behind the other.
pub(crate) fn packed<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        bytes.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
        for part in command {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes
}

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Wire {
    /// A connection to the server at `address`.
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 1 << 20], filled: 0 })
    }

    /// Sends prepared bytes and waits until `replies` replies have come.
    pub(crate) async fn exchange(&mut self, bytes: &[u8], replies: usize) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        let (mut counted, mut at) = (0, 0);
        self.filled = 0;
        while counted < replies {
            while let Some(end) = reply_end(self.buffer.get(at..self.filled).unwrap_or_default()) {
                counted += 1;
                at += end;
            }
            if counted >= replies {
                break;
            }
            if at > 0 {
                self.buffer.copy_within(at..self.filled, 0);
                self.filled -= at;
                at = 0;
            }
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.filled * 2, 0);
            }
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let read = self.stream.read(room).await?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            self.filled += read;
        }
        Ok(())
    }

    /// Microseconds of each exchange, one after another for as long as `lasting`.
    pub(crate) async fn latencies(
        &mut self,
        exchanges: &[(Vec<u8>, usize)],
        lasting: Duration,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut histogram = Histogram::new(3)?;
        let began = Instant::now();
        for (bytes, replies) in exchanges.iter().cycle() {
            let sent = Instant::now();
            self.exchange(bytes, *replies).await?;
            histogram.record(u64::try_from(sent.elapsed().as_nanos())?)?;
            if began.elapsed() >= lasting {
                break;
            }
        }
        Ok(histogram)
    }
}

/// The median of nanoseconds, in microseconds.
#[expect(clippy::cast_precision_loss, reason = "a latency has far fewer digits")]
pub(crate) fn p50_us(histogram: &Histogram<u64>) -> f64 {
    histogram.value_at_quantile(0.5) as f64 / 1e3
}

/// How many bytes the first reply has, if all of it is here.
fn reply_end(bytes: &[u8]) -> Option<usize> {
    let line = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let number = || std::str::from_utf8(bytes.get(1..line - 2)?).ok()?.parse::<i64>().ok();
    match bytes.first()? {
        b'$' => match usize::try_from(number()?) {
            Ok(length) => (bytes.len() >= line + length + 2).then_some(line + length + 2),
            Err(_) => Some(line),
        },
        b'*' => {
            let mut end = line;
            for _ in 0..number()?.max(0) {
                end += reply_end(bytes.get(end..)?)?;
            }
            Some(end)
        }
        _ => Some(line),
    }
}
