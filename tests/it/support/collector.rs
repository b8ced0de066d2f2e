//! A collector of traces and metrics that speaks both forms of OTLP on one port, and keeps what it was sent, for tests to look at.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tonic::codegen::Service;

use crate::support::sidecar::PATIENCE;
use crate::support::wait_until;

/// How a collector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes everything.
    Willing,
    /// Takes an export and rejects one span of it.
    Picky,
    /// Refuses, with a text that quotes what it was sent.
    Refusing,
    /// Never answers.
    Silent,
}

/// A collector under way; it ends with the test.
pub(crate) struct Collector {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    exports: Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>,
    /// The last export of metrics: each has all of them.
    metrics: Mutex<Option<ExportMetricsServiceRequest>>,
}

impl Collector {
    pub(crate) async fn start(manner: Manner) -> Self {
        Self::with(manner, None).await
    }

    /// A collector behind TLS.
    pub(crate) async fn start_tls(tls: tokio_rustls::TlsAcceptor) -> Self {
        Self::with(Manner::Willing, Some(tls)).await
    }

    async fn with(manner: Manner, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let service = Answering { manner, seen: Arc::clone(&seen) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                service.seen.connections.fetch_add(1, Ordering::Relaxed);
                let (service, tls) = (service.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => service.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                service.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// Everything that was sent, headers included, as text.
    pub(crate) fn text(&self) -> String {
        let exports = self.seen.exports.lock().unwrap();
        let spans: String = exports.iter().map(|(_, request)| format!("{request:?}")).collect();
        format!("{spans}{:?}", self.seen.metrics.lock().unwrap())
    }

    /// The metric `name` of the last export.
    pub(crate) fn metric(&self, name: &str) -> Option<Metric> {
        let export = self.seen.metrics.lock().unwrap();
        let resources = export.as_ref()?.resource_metrics.iter();
        let mut metrics = resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
        metrics.find(|metric| metric.name == name).cloned()
    }

    /// The attribute `name` of the resource of the last metrics.
    pub(crate) fn metrics_resource(&self, name: &str) -> Option<String> {
        let export = self.seen.metrics.lock().unwrap();
        let resource = export.as_ref()?.resource_metrics.first()?.resource.clone()?;
        text_of(&resource.attributes, name)
    }

    /// The header `name` of each export.
    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        let exports = self.seen.exports.lock().unwrap();
        let value = |(headers, _): &(HeaderMap, _)| {
            headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        exports.iter().map(value).collect()
    }

    /// The attribute `name` of the resource of the first export.
    pub(crate) fn resource(&self, name: &str) -> Option<String> {
        let exports = self.seen.exports.lock().unwrap();
        let resource = exports.first()?.1.resource_spans.first()?.resource.clone()?;
        text_of(&resource.attributes, name)
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let exports = self.seen.exports.lock().unwrap();
        let all = exports.iter().flat_map(|(_, request)| &request.resource_spans);
        all.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits for a span that `is_wanted`.
    pub(crate) async fn span(&self, what: &str, is_wanted: impl Fn(&Span) -> bool) -> Span {
        let found = || self.spans().into_iter().find(|span| is_wanted(span));
        let names = || self.spans().into_iter().map(|span| span.name).collect::<std::collections::BTreeSet<_>>();
        let waited = wait_until("", PATIENCE, || async { found().is_some() });
        tokio::select! {
            () = waited => found().unwrap(),
            () = tokio::time::sleep(PATIENCE / 2) => panic!("no span {what} among {:?}", names()),
        }
    }
}

/// The text of an attribute.
pub(crate) fn attribute(span: &Span, name: &str) -> Option<String> {
    text_of(&span.attributes, name)
}

fn text_of(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == name)?.value.clone();
    Some(match value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text,
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => number.to_string(),
        other => format!("{other:?}"),
    })
}

#[derive(Clone)]
struct Answering {
    manner: Manner,
    seen: Arc<Seen>,
}

impl Answering {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let answering = self.clone();
            async move {
                let path = request.uri().path().to_owned();
                if path == "/v1/traces" || path == "/v1/metrics" {
                    let answer = answering.protobuf(request).await;
                    return Ok(answer.map(|body| body.map_err(|e| match e {}).boxed_unsync()));
                }
                let answer = if path.contains("MetricsService") {
                    MetricsServiceServer::new(answering).call(request).await
                } else {
                    TraceServiceServer::new(answering).call(request).await
                };
                answer.map(|response| response.map(|body| body.boxed_unsync()))
            }
        });
        // A client that leaves in the middle is no failure of the collector.
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn protobuf(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        assert_eq!(head.headers["content-type"], "application/x-protobuf");
        let body = body.collect().await.unwrap().to_bytes();
        if head.uri.path() == "/v1/metrics" {
            *self.seen.metrics.lock().unwrap() = Some(ExportMetricsServiceRequest::decode(body).unwrap());
            return Response::new(Full::from(ExportMetricsServiceResponse::default().encode_to_vec()));
        }
        let spans = ExportTraceServiceRequest::decode(body).unwrap();
        match self.answer(head.headers, spans).await {
            Ok(answer) => Response::new(Full::from(answer.encode_to_vec())),
            Err(status) => {
                let mut refusal = Response::new(Full::from(status.message().to_owned()));
                *refusal.status_mut() = StatusCode::BAD_REQUEST;
                refusal
            }
        }
    }

    async fn answer(
        &self,
        headers: HeaderMap,
        spans: ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, tonic::Status> {
        let text = format!("{headers:?} {spans:?}");
        self.seen.exports.lock().unwrap().push((headers, spans));
        match self.manner {
            Manner::Willing => Ok(ExportTraceServiceResponse { partial_success: None }),
            Manner::Picky => {
                let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: text };
                Ok(ExportTraceServiceResponse { partial_success: Some(partial) })
            }
            Manner::Refusing => Err(tonic::Status::invalid_argument(text)),
            Manner::Silent => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl TraceService for Answering {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, spans) = request.into_parts();
        self.answer(metadata.into_headers(), spans).await.map(tonic::Response::new)
    }
}

#[tonic::async_trait]
impl MetricsService for Answering {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        *self.seen.metrics.lock().unwrap() = Some(request.into_inner());
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}
