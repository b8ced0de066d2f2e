//! Settings as a person meets them: which source wins, what is refused and in which words, and that no secret is shown.

use std::fs;

use parallax::settings::definitions::DEFINITIONS;
use parallax::settings::sources::Inputs;
use parallax::settings::{RespListen, SettingErrors, Settings, SslMode, load, report};
use secrecy::ExposeSecret;

fn with(variables: &[(&str, &str)]) -> Settings {
    load(&Inputs::of_variables(variables)).unwrap_or_else(|errors| panic!("{errors}")).settings
}

fn refused(variables: &[(&str, &str)]) -> SettingErrors {
    load(&Inputs::of_variables(variables)).expect_err("these settings were to be refused")
}

#[track_caller]
fn assert_refused(variables: &[(&str, &str)], setting: &str, words: &str) {
    let errors = refused(variables);
    let found = errors.0.iter().any(|error| error.setting == setting && error.problem.contains(words));
    assert!(found, "no `{setting}: ..{words}..` in: {errors}");
}

#[test]
fn nothing_said_means_loopback_and_the_usual_ports() {
    let settings = with(&[]);
    assert_eq!((settings.redis.host.as_str(), settings.redis.port, settings.redis.database), ("127.0.0.1", 6379, 0));
    let postgres = settings.postgres.unwrap();
    assert_eq!((postgres.host.as_str(), postgres.port), ("127.0.0.1", 5432));
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8380");
    assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:8381");
    assert_eq!(settings.timezone_offset_hours, 8);
    assert_eq!(settings.limits.lease_ms, 20_000);
    assert_ne!(settings.instance, with(&[]).instance);
}

#[test]
fn the_names_of_the_original_plan_and_of_the_relay_work() {
    let settings = with(&[
        ("POSTGRES_HOST", "db"),
        ("POSTGRES_PORT", "5433"),
        ("POSTGRES_DB", "relay"),
        ("POSTGRES_USER", "u"),
        ("POSTGRES_PASSWORD", "p"),
        ("POSTGRES_POOL_SIZE", "20"),
        ("POSTGRES_IDLE_TIMEOUT", "1500"),
        ("POSTGRES_SSLMODE", "verify-full"),
        ("ENABLE_POSTGRES", "true"),
        ("CACHE_TTL_SECONDS", "60"),
        ("ENABLE_WRITE_THROUGH_CACHE", "false"),
        ("REDIS_HOST", "r"),
        ("REDIS_PORT", "7000"),
        ("REDIS_PASSWORD", "s"),
        ("REDIS_DB", "2"),
        ("REDIS_ENABLE_TLS", "true"),
        ("TIMEZONE_OFFSET", "-5"),
    ]);
    let postgres = settings.postgres.unwrap();
    assert_eq!((postgres.host.as_str(), postgres.port, postgres.database.as_str()), ("db", 5433, "relay"));
    assert_eq!((postgres.pool_size, postgres.idle_timeout_ms, postgres.sslmode), (20, 1500, SslMode::VerifyFull));
    assert_eq!(postgres.password.unwrap().expose_secret(), "p");
    assert_eq!((settings.cache.ttl_seconds, settings.cache.write_through), (60, false));
    assert_eq!((settings.redis.host.as_str(), settings.redis.port, settings.redis.database), ("r", 7000, 2));
    assert!(settings.redis.tls.is_some());
    assert_eq!(settings.timezone_offset_hours, -5);
    assert!(with(&[("ENABLE_POSTGRES", "false")]).postgres.is_none());
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("parallax.toml");
    fs::write(&file, "[redis]\nhost = \"file\"\nport = 1\ndb = 1\n[limits]\nlease_ms = 9000\n").unwrap();
    let mut inputs = Inputs::of_variables(&[("REDIS_HOST", "variable"), ("REDIS_PORT", "2")]);
    inputs.config = Some(file);
    inputs.flags.push(("redis.host", "flag".to_owned()));
    let settings = load(&inputs).unwrap().settings;
    assert_eq!((settings.redis.host.as_str(), settings.redis.port, settings.redis.database), ("flag", 2, 1));
    assert_eq!(settings.limits.lease_ms, 9000);
    assert_eq!(settings.limits.command_deadline_ms, 5000);
}

#[test]
fn our_own_names_win_over_those_that_the_application_reads_too() {
    let settings = with(&[
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", "8380"),
        ("REDIS_PASSWORD", "shared"),
        ("PARALLAX_REDIS_URL", "redis://real.example:6380/4"),
    ]);
    assert_eq!((settings.redis.host.as_str(), settings.redis.port), ("real.example", 6380));
    assert_eq!(settings.redis.database, 4);
    assert_eq!(settings.redis.password.unwrap().expose_secret(), "shared");
}

#[test]
fn an_address_in_one_piece_says_the_same_as_its_pieces_or_is_refused() {
    let postgres = with(&[("DATABASE_URL", "postgres://u:p%2Fq@db:6000/name?sslmode=require")]).postgres.unwrap();
    assert_eq!((postgres.host.as_str(), postgres.port, postgres.user.as_str()), ("db", 6000, "u"));
    assert_eq!(postgres.password.unwrap().expose_secret(), "p/q");
    assert_eq!(postgres.sslmode, SslMode::Require);
    assert!(load(&Inputs::of_variables(&[("REDIS_URL", "redis://h"), ("REDIS_HOST", "h")])).is_ok());
    assert_refused(
        &[("REDIS_URL", "redis://h"), ("REDIS_HOST", "other")],
        "REDIS_URL",
        "REDIS_HOST says something else",
    );
    assert_refused(&[("REDIS_URL", "redis://h"), ("REDIS_ENABLE_TLS", "true")], "REDIS_URL", "enable_tls");
}

#[test]
fn every_password_and_token_can_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "from-a-file\n").unwrap();
    let path = file.to_str().unwrap();
    let settings = with(&[
        ("REDIS_PASSWORD_FILE", path),
        ("POSTGRES_PASSWORD_FILE", path),
        ("PARALLAX_HTTP_TOKEN_FILE", path),
        ("PARALLAX_ADMIN_VIEWER_TOKEN_FILE", path),
        ("PARALLAX_ADMIN_OPERATOR_TOKEN_FILE", path),
        ("PARALLAX_ADMIN_SECRETS_TOKEN_FILE", path),
    ]);
    let secrets = [
        settings.redis.password.as_ref(),
        settings.postgres.as_ref().and_then(|postgres| postgres.password.as_ref()),
        settings.http.tokens.first(),
        settings.admin.viewer_tokens.first(),
        settings.admin.operator_tokens.first(),
        settings.admin.secrets_tokens.first(),
    ];
    for secret in secrets {
        assert_eq!(secret.unwrap().expose_secret(), "from-a-file");
    }
    assert_refused(&[("REDIS_PASSWORD_FILE", "/nowhere/at/all")], "REDIS_PASSWORD_FILE", "cannot be read");
    assert_refused(
        &[("REDIS_PASSWORD", "x"), ("REDIS_PASSWORD_FILE", path)],
        "REDIS_PASSWORD",
        "REDIS_PASSWORD_FILE is set as well",
    );
}

#[test]
fn all_mistakes_are_listed_at_once_each_with_its_name_and_a_remedy() {
    let errors = refused(&[
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("POSTGRES_PORT", "70000"),
        ("POSTGRES_SSLMODE", "prefer"),
        ("PARALLAX_LOG_FORMAT", "xml"),
        ("PARALLAX_LEASE_MS", "10"),
        ("ENABLE_POSTGRES", "perhaps"),
        ("PARALLAX_CATALOG", "/nowhere/at/all.toml"),
    ]);
    let text = errors.to_string();
    for words in [
        "7 settings cannot be used",
        "REDIS_PORT: `tcp://10.0.0.1:6379` will not do: give a whole number from 1 to 65535. Kubernetes sets",
        "POSTGRES_PORT: `70000`",
        "POSTGRES_SSLMODE: `prefer` will not do: give one of disable, require, verify-ca, verify-full",
        "PARALLAX_LOG_FORMAT: `xml` will not do: give one of text, json",
        "PARALLAX_LEASE_MS: `10` will not do: give a whole number from 1000",
        "ENABLE_POSTGRES: `perhaps` will not do: give true or false",
        "PARALLAX_CATALOG: /nowhere/at/all.toml cannot be read",
    ] {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
}

#[test]
fn a_door_that_others_can_reach_needs_a_token() {
    assert_refused(&[("PARALLAX_HTTP_LISTEN", "0.0.0.0:8380")], "PARALLAX_HTTP_LISTEN", "set PARALLAX_HTTP_TOKEN");
    let admin = [("PARALLAX_ADMIN_LISTEN", "[::]:8381")];
    assert_refused(&admin, "PARALLAX_ADMIN_LISTEN", "set PARALLAX_ADMIN_OPERATOR_TOKEN");
    let settings = with(&[("PARALLAX_HTTP_LISTEN", "0.0.0.0:8380"), ("PARALLAX_HTTP_TOKEN", "one, two")]);
    assert_eq!(settings.http.tokens.len(), 2);
}

#[test]
fn the_redis_door_is_on_loopback_a_socket_or_off_and_needs_a_password_elsewhere() {
    let listen = |text: &str| with(&[("PARALLAX_RESP_LISTEN", text)]).resp.map(|resp| resp.listen);
    assert_eq!(with(&[]).resp.unwrap().listen, RespListen::Tcp("127.0.0.1:6380".parse().unwrap()));
    assert_eq!(listen("unix:/run/parallax.sock"), Some(RespListen::Unix("/run/parallax.sock".into())));
    assert_eq!(listen("off"), None);
    assert_refused(&[("PARALLAX_RESP_LISTEN", "0.0.0.0:6380")], "PARALLAX_RESP_LISTEN", "set PARALLAX_RESP_PASSWORD");
    assert_refused(&[("PARALLAX_RESP_LISTEN", "127.0.0.1:8380")], "PARALLAX_RESP_LISTEN", "another door listens there");
    assert_refused(&[("PARALLAX_RESP_LISTEN", "unix:")], "PARALLAX_RESP_LISTEN", "a path");
    let policies = [("PARALLAX_RESP_SERVER_COMMANDS", "forward"), ("PARALLAX_RESP_BLOCKING_WRITES", "perhaps")];
    assert_refused(&policies, "PARALLAX_RESP_BLOCKING_WRITES", "give one of refuse, forward");
    let variables = [("REDIS_HOST", "localhost"), ("REDIS_PORT", "6380")];
    assert_refused(&variables, "REDIS_HOST", "is a door of this sidecar");
    let elsewhere = [("PARALLAX_RESP_LISTEN", "0.0.0.0:6380"), ("PARALLAX_RESP_PASSWORD", "p")];
    assert!(with(&elsewhere).resp.unwrap().password.is_some());
}

#[test]
fn an_upstream_that_is_our_own_door_is_refused_under_every_name() {
    for host in ["127.0.0.1", "localhost", "127.0.0.2", "0.0.0.0"] {
        let variables = [("REDIS_HOST", host), ("REDIS_PORT", "8380")];
        assert_refused(&variables, "REDIS_HOST", "is a door of this sidecar");
    }
    assert_refused(&[("DATABASE_URL", "postgres://localhost:8381/x")], "DATABASE_URL", "is a door of this sidecar");
    let everywhere = [("PARALLAX_HTTP_LISTEN", "0.0.0.0:8380"), ("PARALLAX_HTTP_TOKEN", "t"), ("REDIS_PORT", "8380")];
    assert_refused(&everywhere, "REDIS_HOST", "is a door of this sidecar");
    assert!(load(&Inputs::of_variables(&[("REDIS_HOST", "192.0.2.1"), ("REDIS_PORT", "8380")])).is_ok());
}

#[test]
fn a_certificate_that_nobody_would_look_at_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, "").unwrap();
    let path = file.to_str().unwrap();
    assert_refused(&[("PARALLAX_REDIS_CA_FILE", path)], "PARALLAX_REDIS_CA_FILE", "TLS is not spoken");
    assert_refused(&[("POSTGRES_SSLROOTCERT", path)], "POSTGRES_SSLROOTCERT", "TLS is not spoken");
}

#[test]
fn a_file_with_an_unknown_setting_or_bad_form_is_refused_without_quoting_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("parallax.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, "host = \"x\"\n[redis]\nnonsense = 1\n").unwrap();
    assert_refused(&[("PARALLAX_CONFIG", path)], &format!("{path}: host"), "is `redis.host` meant?");
    assert_refused(&[("PARALLAX_CONFIG", path)], &format!("{path}: redis.nonsense"), "there is no such setting");
    fs::write(&file, "[redis]\npassword = \"s3cret\n").unwrap();
    assert_refused(&[("PARALLAX_CONFIG", path)], &format!("{path}:2"), "");
    assert!(!refused(&[("PARALLAX_CONFIG", path)]).to_string().contains("s3cret"));
}

#[test]
fn no_secret_is_shown_by_the_report_or_by_debug() {
    let loaded = load(&Inputs::of_variables(&[
        ("REDIS_URL", "redis://user:s3cret-r@r.example/1"),
        ("POSTGRES_PASSWORD", "s3cret-p"),
        ("PARALLAX_HTTP_TOKEN", "s3cret-h"),
        ("PARALLAX_ADMIN_OPERATOR_TOKEN", "s3cret-a"),
    ]))
    .unwrap();
    let report = report::effective(&loaded);
    let line = |key: &str| report.lines().find(|line| line.trim_start().starts_with(key)).unwrap().to_owned();
    assert!(!report.contains("s3cret"), "{report}");
    assert!(!format!("{loaded:?}").contains("s3cret"));
    assert!(line("redis.host").contains("r.example") && line("redis.host").contains("REDIS_URL"), "{report}");
    assert!(line("redis.password").contains("********"), "{report}");
    assert!(line("http.token").contains("PARALLAX_HTTP_TOKEN"), "{report}");
    assert!(line("redis.port").contains("6379"), "{report}");
    assert!(line("cache.ttl_seconds").contains("no effect before cachefirst"), "{report}");
    assert!(line("cache.write_through").contains("no effect before cachefirst"), "{report}");
}

#[test]
fn the_report_names_every_setting_once() {
    let report = report::effective(&load(&Inputs::of_variables(&[])).unwrap());
    for definition in DEFINITIONS.iter().filter(|definition| !definition.key.ends_with(".url")) {
        let lines = report.lines().filter(|line| line.split_whitespace().next() == Some(definition.key)).count();
        assert_eq!(lines, 1, "{}", definition.key);
    }
}

#[test]
fn what_may_be_a_mistake_is_said_aloud() {
    let warnings = |variables: &[(&str, &str)]| load(&Inputs::of_variables(variables)).unwrap().warnings;
    assert!(warnings(&[]).is_empty());
    let slip = warnings(&[("PARALLAX_HTPP_LISTEN", "x"), ("PARALLAX_SERVICE_HOST", "10.0.0.1")]);
    assert_eq!(slip, ["PARALLAX_HTPP_LISTEN is set, but there is no such setting"]);
    let plain = warnings(&[("REDIS_HOST", "r.example"), ("POSTGRES_HOST", "p.example")]);
    assert_eq!(plain.iter().filter(|warning| warning.contains("in plain text")).count(), 2, "{plain:?}");
}
