//! A network that fails on demand: a TCP proxy between a sidecar and a store, which passes, delays, or holds what is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They pass.
    None,
    /// What the store answers comes so much later.
    Delay(Duration),
    /// They are held, in both directions, and no connection ends: a partition.
    Partition,
}

/// A proxy in front of one port of this machine.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    fault: Arc<watch::Sender<Fault>>,
}

impl Proxy {
    /// A proxy that passes everything to `upstream`.
    pub(crate) async fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Arc::new(watch::channel(Fault::None).0);
        let faults = Arc::clone(&fault);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = Arc::clone(&faults);
                tokio::spawn(async move {
                    passes(faults.subscribe()).await;
                    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::join!(
                        pump(from_client, to_server, faults.subscribe(), Way::Up),
                        pump(from_server, to_client, faults.subscribe(), Way::Down)
                    );
                });
            }
        });
        Self { port, fault }
    }

    /// From now on.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// `url`, with the port of this proxy in the place of `port`.
    pub(crate) fn url(&self, url: &str, port: u16) -> String {
        url.replace(&format!(":{port}"), &format!(":{}", self.port))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

async fn passes(mut fault: watch::Receiver<Fault>) {
    let _ = fault.wait_for(|fault| *fault != Fault::Partition).await;
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    fault: watch::Receiver<Fault>,
    way: Way,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut bytes).await {
        passes(fault.clone()).await;
        let now = *fault.borrow();
        if let (Fault::Delay(delay), Way::Down) = (now, way) {
            tokio::time::sleep(delay).await;
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
