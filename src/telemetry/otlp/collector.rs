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
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::settings::otlp::{OtlpProtocol, OtlpTarget};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long the first pause between two tries is; each further one is twice as long.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Why an export was not taken. Nothing of what the collector wrote stands here: it may quote what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::telemetry) enum ExportError {
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
    /// Whether OTLP allows to send the same again.
    fn may_be_repeated(self) -> bool {
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

/// The client of one of OTLP's services over gRPC.
type GrpcService = Client<HttpsConnector<HttpConnector>, tonic::body::Body>;

/// What is sent to a collector.
pub(in crate::telemetry) trait Signal {
    /// One export.
    type Request: Message + Clone + 'static;
    /// The answer to it.
    type Response: Message + Default;
    /// The client over gRPC. Cheap to clone.
    type Client: Clone + Send + Sync;

    /// The client over gRPC for a collector at `origin`.
    fn client(service: GrpcService, origin: Uri) -> Self::Client;

    /// Sends one export over gRPC.
    fn call(
        client: Self::Client,
        request: tonic::Request<Self::Request>,
    ) -> impl Future<Output = Result<tonic::Response<Self::Response>, Status>> + Send;

    /// How many items of the export were rejected.
    fn rejected(answer: &Self::Response) -> i64;
}

/// Spans.
pub(in crate::telemetry) struct Spans;

impl Signal for Spans {
    type Request = ExportTraceServiceRequest;
    type Response = ExportTraceServiceResponse;
    type Client = TraceServiceClient<GrpcService>;

    fn client(service: GrpcService, origin: Uri) -> Self::Client {
        TraceServiceClient::with_origin(service, origin)
    }

    async fn call(
        mut client: Self::Client,
        request: tonic::Request<Self::Request>,
    ) -> Result<tonic::Response<Self::Response>, Status> {
        client.export(request).await
    }

    fn rejected(answer: &Self::Response) -> i64 {
        answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans)
    }
}

/// Points of metrics.
pub(in crate::telemetry) struct Points;

impl Signal for Points {
    type Request = ExportMetricsServiceRequest;
    type Response = ExportMetricsServiceResponse;
    type Client = MetricsServiceClient<GrpcService>;

    fn client(service: GrpcService, origin: Uri) -> Self::Client {
        MetricsServiceClient::with_origin(service, origin)
    }

    async fn call(
        mut client: Self::Client,
        request: tonic::Request<Self::Request>,
    ) -> Result<tonic::Response<Self::Response>, Status> {
        client.export(request).await
    }

    fn rejected(answer: &Self::Response) -> i64 {
        answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_data_points)
    }
}

/// A collector. Connects when the first export is sent, and again by itself.
pub(in crate::telemetry) struct Collector<S: Signal> {
    transport: Transport<S>,
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

enum Transport<S: Signal> {
    Http(Box<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>),
    Grpc(S::Client),
}

impl<S: Signal> Collector<S> {
    /// The collector of these settings; `tls` is how it is spoken to where its address begins with https.
    pub(in crate::telemetry) fn new(settings: &OtlpTarget, tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let transport = match settings.protocol {
            OtlpProtocol::HttpProtobuf => {
                Transport::Http(Box::new(Client::builder(TokioExecutor::new()).build(connector.enable_http1().build())))
            }
            OtlpProtocol::Grpc => {
                let service =
                    Client::builder(TokioExecutor::new()).http2_only(true).build(connector.enable_http2().build());
                Transport::Grpc(S::client(service, settings.endpoint.clone()))
            }
        };
        Self {
            transport,
            endpoint: settings.endpoint.clone(),
            headers: settings.headers.clone(),
            timeout: Duration::from_millis(settings.timeout_ms),
        }
    }

    /// Sends until it is taken, refused for good, or `deadline` has passed. While we are asked to end there is one try.
    /// Answers how many items of the export the collector rejected.
    ///
    /// # Errors
    /// Why none was taken.
    pub(in crate::telemetry) async fn send(
        &self,
        request: &S::Request,
        deadline: Duration,
        stopped: &watch::Receiver<bool>,
    ) -> Result<u64, ExportError> {
        let until = Instant::now() + deadline;
        let mut pause = RETRY_PAUSE;
        loop {
            let tried = timeout_at(until, self.send_once(request)).await.unwrap_or(Err(ExportError::Late));
            match tried {
                Err(error) if error.may_be_repeated() && Instant::now() + pause < until => {
                    let mut stopped = stopped.clone();
                    tokio::select! {
                        () = sleep(pause) => pause *= 2,
                        _ = stopped.wait_for(|stopped| *stopped) => return Err(error),
                    }
                }
                outcome => return outcome,
            }
        }
    }

    async fn send_once(&self, export: &S::Request) -> Result<u64, ExportError> {
        let sent = async {
            match &self.transport {
                Transport::Http(client) => self.post(client, export).await,
                Transport::Grpc(client) => {
                    let metadata = MetadataMap::from_headers(self.headers.clone());
                    let request = tonic::Request::from_parts(metadata, Default::default(), export.clone());
                    Ok(S::call(client.clone(), request).await.map_err(|status| failure(&status))?.into_inner())
                }
            }
        };
        let answer = timeout(self.timeout, sent).await.map_err(|_| ExportError::Late)??;
        Ok(u64::try_from(S::rejected(&answer)).unwrap_or(0))
    }

    async fn post(
        &self,
        client: &Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
        export: &S::Request,
    ) -> Result<S::Response, ExportError> {
        let mut request = Request::post(self.endpoint.clone())
            .body(Full::new(Bytes::from(export.encode_to_vec())))
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
        S::Response::decode(body.to_bytes()).map_err(|_| ExportError::Form)
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
