//! Subscriptions of a client: commands whose replies come as messages.

use bytes::BytesMut;

use crate::doors::resp::client::{Client, Go};
use crate::doors::resp::output::failure;
use crate::doors::resp::traced;
use crate::dual::route::{RedisError, Route};
use crate::model::command::Command;
use crate::model::frame::encode;

impl Client {
    /// A command whose replies cannot be counted: a question behind it tells where they end.
    pub(super) async fn synchronised(&mut self, command: &Command) -> Go {
        if let Route::Refuse(reason) = self.route(command) {
            self.output.reply(&failure(&reason));
            return Go::On;
        }
        let output = std::sync::Arc::clone(&self.output);
        let mut span = self.span_of(command);
        let mark = format!("parallax:{:016x}", rand::random::<u64>());
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, command);
        encode::command(&mut bytes, &Command::new(["PING", mark.as_str()].map(str::to_owned)));
        let plain = format!("${}\r\n{mark}\r\n", mark.len());
        let subscribed = format!("*2\r\n$4\r\npong\r\n{plain}");
        let asked = async {
            let own = self.own().await?;
            own.write(&bytes).await?;
            loop {
                let frame = own.wire.frame().await?;
                if frame.bytes() == plain.as_bytes() || frame.bytes() == subscribed.as_bytes() {
                    return Ok::<_, RedisError>(());
                }
                traced::seen(&mut span, frame.bytes());
                own.push(&frame, &output);
                output.flush();
            }
        };
        match asked.await {
            Ok(()) => {
                span.end();
                self.release();
                Go::On
            }
            Err(error) => self.lost_within(span, &error),
        }
    }
}

/// Commands whose replies come as messages.
pub(super) fn is_subscription(name: &str) -> bool {
    matches!(name, "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE")
}
