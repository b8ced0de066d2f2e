//! Callers who are refused for their token again and again, and the one beside them whose token is right.

use parallax::doors::refusals::REFUSALS_MAX;
use serde_json::json;

use crate::support;
use crate::support::sidecar::Sidecar;

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_refused_too_often_is_told_to_wait_and_a_right_token_is_let_in_all_the_same() {
    let redis = support::redis().await;
    let tokens = [("PARALLAX_HTTP_TOKEN", "data-word"), ("PARALLAX_ADMIN_VIEWER_TOKEN", "viewer-word")];
    let sidecar = Sidecar::start_with(&redis, None, &tokens).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let (wrong, data, viewer) = (bearer("guess"), bearer("data-word"), bearer("viewer-word"));
    let body = || Some(json!(["PING"]).to_string().into());
    let guess_data = async || sidecar.data("POST", "/redis", body(), &[("authorization", &wrong)]).await;
    let guess_admin = async || sidecar.admin("GET", "/v1/flags", None, &[("authorization", &wrong)]).await;
    // Held back for a moment each, so all at once.
    let mut answers = futures_util::future::join_all((0..=REFUSALS_MAX).map(|_| guess_admin())).await;
    answers.extend(futures_util::future::join_all((0..=REFUSALS_MAX).map(|_| guess_data())).await);
    let limited: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(limited.len(), 2, "one at each door");
    assert!(answers.iter().all(|answer| [401, 429].contains(&answer.status)));
    for answer in limited {
        assert_eq!(answer.json()["type"], "urn:parallax:problem:too-many-refusals");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&wait), "{wait}");
    }
    let let_in = sidecar.data("POST", "/redis", body(), &[("authorization", &data)]).await;
    assert_eq!(let_in.status, 200, "{:?}", let_in.body);
    let metrics = sidecar.admin("GET", "/metrics", None, &[("authorization", &viewer)]).await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted =
        text.lines().filter(|line| line.starts_with("parallax_auth_failures_total{") && line.ends_with(" 101"));
    assert_eq!((metrics.status, counted.count()), (200, 2), "each is counted");
    sidecar.stop_with(&[], &["postgres cannot be reached"]).await;
}
