//! OpenTelemetry's names as a person meets them: what they mean, what is refused and in which words, and that no secret is
//! shown.

use parallax::settings::definitions::DEFINITIONS;
use parallax::settings::otlp::OtlpProtocol;
use parallax::settings::sources::Inputs;
use parallax::settings::traces::{AsksParent, Sampler, TraceSettings};
use parallax::settings::{load, report};

const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

fn traces(variables: &[(&str, &str)]) -> Option<TraceSettings> {
    load(&Inputs::of_variables(variables)).unwrap_or_else(|errors| panic!("{errors}")).settings.traces
}

#[track_caller]
fn assert_refused(variable: (&str, &str), words: &str) {
    let errors = load(&Inputs::of_variables(&[COLLECTOR, variable])).expect_err("it was to be refused");
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert!(errors.0[0].setting == variable.0 && errors.0[0].problem.contains(words), "no `{words}` in: {errors}");
}

#[test]
fn traces_are_off_until_somebody_names_a_collector_and_when_they_are_switched_off() {
    assert!(traces(&[]).is_none());
    assert!(traces(&[("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_SERVICE_NAME", "x")]).is_none());
    assert!(traces(&[COLLECTOR, ("OTEL_SDK_DISABLED", "true")]).is_none());
    assert!(traces(&[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")]).is_none());
    assert!(traces(&[COLLECTOR]).is_some());
}

#[test]
fn a_collector_has_a_path_for_traces_and_an_address_for_traces_is_taken_as_it_is() {
    let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/in?");
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let endpoint = |variables: &[(&str, &str)]| traces(variables).unwrap().target.endpoint.to_string();
    assert_eq!(endpoint(&[COLLECTOR]), "http://collector:4318/v1/traces");
    assert_eq!(endpoint(&[COLLECTOR, grpc]), "http://collector:4318/");
    assert_eq!(endpoint(&[COLLECTOR, (own.0, "https://other/in")]), "https://other/in");
    let both = [COLLECTOR, grpc, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")];
    assert_eq!(traces(&both).unwrap().target.protocol, OtlpProtocol::HttpProtobuf);
    assert_refused(own, "no user, password or query");
}

#[test]
fn what_is_usual_is_what_opentelemetry_says() {
    let traces = traces(&[COLLECTOR]).unwrap();
    assert_eq!(traces.target.protocol, OtlpProtocol::HttpProtobuf);
    assert_eq!(traces.sampler, Sampler { asks_parent: AsksParent::Yes, ratio: 1.0 });
    assert_eq!((traces.queue_max, traces.batch_max), (2048, 512));
    assert_eq!((traces.delay_ms, traces.export_timeout_ms, traces.target.timeout_ms), (5000, 30_000, 10_000));
    assert_eq!(traces.target.resource, [("service.name".to_owned(), "parallax".to_owned())]);
}

#[test]
fn a_service_has_the_name_that_was_given_last_of_all_by_its_attributes() {
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a%2Cb, team = relay");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let resource = traces(&[COLLECTOR, attributes]).unwrap().target.resource;
    assert_eq!(resource, [pair("service.name", "a,b"), pair("team", "relay")]);
    let resource = traces(&[COLLECTOR, attributes, ("OTEL_SERVICE_NAME", "mine")]).unwrap().target.resource;
    assert_eq!(resource, [pair("service.name", "mine"), pair("team", "relay")]);
}

#[test]
fn every_sampler_by_its_name() {
    for (name, asks_parent, ratio) in [
        ("always_on", AsksParent::No, 1.0),
        ("always_off", AsksParent::No, 0.0),
        ("traceidratio", AsksParent::No, 0.25),
        ("parentbased_always_on", AsksParent::Yes, 1.0),
        ("parentbased_always_off", AsksParent::Yes, 0.0),
        ("parentbased_traceidratio", AsksParent::Yes, 0.25),
    ] {
        let traces = traces(&[COLLECTOR, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", "0.25")]).unwrap();
        assert_eq!(traces.sampler, Sampler { asks_parent, ratio }, "{name}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_a_remedy() {
    assert_refused(("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317"), "give http://host:port");
    assert_refused(("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://u:s3cret@collector"), "OTEL_EXPORTER_OTLP_HEADERS");
    assert_refused(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), "one of http/protobuf, grpc");
    assert_refused(("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"), "name=value");
    assert_refused(("OTEL_EXPORTER_OTLP_HEADERS", "a b=s3cret"), "name=value");
    assert_refused(("OTEL_RESOURCE_ATTRIBUTES", "team"), "name=value");
    assert_refused(("OTEL_TRACES_SAMPLER", "xray"), "one of parentbased_always_on");
    assert_refused(("OTEL_TRACES_SAMPLER_ARG", "2"), "a number from 0 to 1");
    assert_refused(("OTEL_TRACES_EXPORTER", "zipkin"), "one of otlp, none");
    assert_refused(("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"), "a whole number");
    assert_refused(("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"), "above OTEL_BSP_MAX_QUEUE_SIZE");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    assert_refused(("OTEL_EXPORTER_OTLP_CERTIFICATE", file), "TLS is not spoken");
}

#[test]
fn neither_an_error_nor_the_report_shows_what_lets_us_in() {
    for wrong in [("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:s3cret@c")] {
        let errors = load(&Inputs::of_variables(&[wrong])).expect_err("it was to be refused");
        assert!(!errors.to_string().contains("s3cret"), "{errors}");
    }
    let loaded = load(&Inputs::of_variables(&[COLLECTOR, ("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret")])).unwrap();
    assert_eq!(loaded.settings.traces.as_ref().unwrap().target.headers["a"], "s3cret");
    assert!(!format!("{loaded:?}").contains("s3cret"));
    let text = report::effective(&loaded);
    assert!(
        !text.contains("s3cret") && text.contains("otlp.headers") && text.contains("http://collector:4318/"),
        "{text}"
    );
    let off = report::effective(&load(&Inputs::of_variables(&[])).unwrap());
    assert!(off.contains("no effect: traces are off"), "{off}");
    assert!(off.contains("no effect: metrics are scraped, and sent nowhere"), "{off}");
}

#[test]
fn the_document_names_every_setting_of_telemetry_with_its_default() {
    let text = include_str!("../../../docs/telemetry.md");
    let areas = ["otlp.", "traces.", "metrics."];
    for definition in DEFINITIONS.iter().filter(|definition| areas.iter().any(|area| definition.key.starts_with(area)))
    {
        let is_its_row =
            |line: &&str| line.starts_with("| `OTEL_") && line.contains(&format!("`{}`", definition.name()));
        let row = text.lines().find(is_its_row).unwrap_or_else(|| panic!("no row of {}", definition.name()));
        for variable in definition.variables {
            assert!(row.contains(&format!("`{variable}`")), "{variable} is not in: {row}");
        }
        assert!(definition.default.is_none_or(|default| row.contains(&format!("| `{default}` |"))), "{row}");
    }
}

#[test]
fn metrics_are_sent_only_when_somebody_asks_and_each_signal_may_have_a_collector_of_its_own() {
    let load = |variables: &[(&str, &str)]| load(&Inputs::of_variables(variables)).unwrap().settings;
    assert!(load(&[COLLECTOR]).metrics.is_none());
    let asked = ("OTEL_METRICS_EXPORTER", "otlp");
    assert!(load(&[asked]).metrics.is_none(), "without a collector there is nowhere to send them to");
    assert!(load(&[COLLECTOR, asked, ("OTEL_SDK_DISABLED", "true")]).metrics.is_none());
    let metrics = load(&[COLLECTOR, asked]).metrics.unwrap();
    assert_eq!(metrics.target.endpoint, "http://collector:4318/v1/metrics");
    assert_eq!((metrics.interval_ms, metrics.export_timeout_ms, metrics.target.timeout_ms), (60_000, 30_000, 10_000));
    let settings = load(&[
        COLLECTOR,
        asked,
        ("OTEL_EXPORTER_OTLP_HEADERS", "team=both"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "team=metrics"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "7"),
    ]);
    let (traces, metrics) = (settings.traces.unwrap().target, settings.metrics.unwrap().target);
    assert_eq!((traces.protocol, metrics.protocol), (OtlpProtocol::HttpProtobuf, OtlpProtocol::Grpc));
    assert_eq!(
        (&traces.headers["team"], &metrics.headers["team"]),
        (&"both".parse().unwrap(), &"metrics".parse().unwrap())
    );
    assert_eq!((traces.timeout_ms, metrics.timeout_ms), (10_000, 7));
    assert_eq!(metrics.endpoint, "http://collector:4318/");
}
