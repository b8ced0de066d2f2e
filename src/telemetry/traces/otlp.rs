//! One export to an OTLP collector, over gRPC or as protobuf over HTTP, through one client with our own TLS.
//!
//! The exporter crate of OpenTelemetry reads the environment by itself, quotes the collector in its errors, and does not
//! tell how many spans a collector rejected; so its protocol crate is used directly.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use rustls::ClientConfig;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::settings::traces::{OtlpProtocol, TraceSettings};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why spans were not taken. Nothing of what the collector wrote stands here: it may quote what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExportError {
    /// No connection, or it broke.
    #[error("the collector cannot be reached")]
    Unreachable,
    /// No answer in time.
    #[error("the collector did not answer in time")]
    Late,
    /// It answered, over HTTP, with another status than success.
    #[error("the collector answered with status {0}")]
    Http(u16),
    /// It answered, over gRPC, with another code than success.
    #[error("the collector answered with the gRPC code {0}")]
    Grpc(i32),
    /// What answers there does not speak OTLP.
    #[error("what answers at the collector's address does not speak OTLP")]
    Form,
}

impl ExportError {
    /// Whether OTLP allows to send the same spans again.
    pub(super) fn may_be_repeated(self) -> bool {
        match self {
            Self::Unreachable | Self::Late => true,
            Self::Http(status) => matches!(status, 429 | 502 | 503 | 504),
            Self::Grpc(code) => matches!(
                Code::from_i32(code),
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
            ),
            Self::Form => false,
        }
    }
}

/// A collector. Connects when the first spans are sent, and again by itself.
pub(super) struct Collector {
    transport: Transport,
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

enum Transport {
    Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
    Grpc(TraceServiceClient<Client<HttpsConnector<HttpConnector>, tonic::body::Body>>),
}

impl Collector {
    /// The collector of these settings; `tls` is how it is spoken to where its address begins with https.
    pub(super) fn new(settings: &TraceSettings, tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let transport = match settings.protocol {
            OtlpProtocol::HttpProtobuf => {
                Transport::Http(Client::builder(TokioExecutor::new()).build(connector.enable_http1().build()))
            }
            OtlpProtocol::Grpc => {
                let client =
                    Client::builder(TokioExecutor::new()).http2_only(true).build(connector.enable_http2().build());
                Transport::Grpc(TraceServiceClient::with_origin(client, settings.endpoint.clone()))
            }
        };
        Self {
            transport,
            endpoint: settings.endpoint.clone(),
            headers: settings.headers.clone(),
            timeout: Duration::from_millis(settings.timeout_ms),
        }
    }

    /// Sends spans once. Answers how many of them the collector rejected.
    ///
    /// # Errors
    /// Why none was taken.
    pub(super) async fn send(&self, spans: &ExportTraceServiceRequest) -> Result<u64, ExportError> {
        let sent = async {
            match &self.transport {
                Transport::Http(client) => self.post(client, spans).await,
                Transport::Grpc(client) => {
                    let metadata = MetadataMap::from_headers(self.headers.clone());
                    let request = tonic::Request::from_parts(metadata, Default::default(), spans.clone());
                    Ok(client.clone().export(request).await.map_err(|status| failure(&status))?.into_inner())
                }
            }
        };
        let answer = tokio::time::timeout(self.timeout, sent).await.map_err(|_| ExportError::Late)??;
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }

    async fn post(
        &self,
        client: &Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
        spans: &ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, ExportError> {
        let mut request = Request::post(self.endpoint.clone())
            .body(Full::new(Bytes::from(spans.encode_to_vec())))
            .map_err(|_| ExportError::Unreachable)?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let response = client.request(request).await.map_err(|_| ExportError::Unreachable)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(ExportError::Http(status.as_u16()));
        }
        let body =
            Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|_| ExportError::Form)?;
        ExportTraceServiceResponse::decode(body.to_bytes()).map_err(|_| ExportError::Form)
    }
}

/// A call that never reached a server has the code of one that did; only the cause beneath tells them apart.
fn failure(status: &Status) -> ExportError {
    let is_ours = std::error::Error::source(status).is_some();
    if is_ours { ExportError::Unreachable } else { ExportError::Grpc(status.code().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_repeated_and_a_refusal_is_not() {
        for error in [ExportError::Unreachable, ExportError::Late, ExportError::Http(503), ExportError::Grpc(14)] {
            assert!(error.may_be_repeated(), "{error}");
        }
        for error in [ExportError::Form, ExportError::Http(400), ExportError::Http(401), ExportError::Grpc(16)] {
            assert!(!error.may_be_repeated(), "{error}");
        }
    }
}
