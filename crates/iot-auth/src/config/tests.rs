use std::collections::BTreeMap;

use iot_service::config::HumanDuration;

use super::*;

fn problems(config: &AuthConfig) -> String {
    let mut problems = Problems::default();
    config.validate("0.0.0.0:8080", &mut problems);
    problems.to_string()
}

fn jwt(jwt: JwtConfig) -> AuthConfig {
    AuthConfig {
        mode: Mode::Jwt,
        jwt,
        ..AuthConfig::default()
    }
}

#[test]
fn only_loopback_needs_no_auth() {
    for (listen, is_allowed) in [
        ("127.0.0.1:8080", true),
        ("[::1]:8080", true),
        ("localhost:0", true),
        ("0.0.0.0:8080", false),
        ("[::]:8080", false),
        ("192.0.2.1:8080", false),
        (":8080", false),
        ("consumer:8080", false),
    ] {
        let mut problems = Problems::default();
        AuthConfig::default().validate(listen, &mut problems);
        assert_eq!(problems.is_empty(), is_allowed, "{listen}: {problems}");
    }
    let none = AuthConfig {
        mode: Mode::None,
        ..AuthConfig::default()
    };
    assert_eq!(problems(&none), "");
    let mut warnings = Problems::default();
    none.warnings("0.0.0.0:8080", &mut warnings);
    assert!(
        warnings.to_string().starts_with("auth.mode: none: "),
        "{warnings}"
    );
}

#[test]
fn tokens_need_issuer_and_audience_unless_there_is_a_secret() {
    let url = JwtConfig {
        jwks_url: "https://id.example/keys".into(),
        ..JwtConfig::default()
    };
    let found = problems(&jwt(url.clone()));
    assert!(found.contains("auth.jwt.issuer: is needed"), "{found}");
    assert!(found.contains("auth.jwt.audience: is needed"), "{found}");
    let complete = JwtConfig {
        issuer: "https://id.example".into(),
        audience: vec!["*".into()],
        ..url
    };
    assert_eq!(problems(&jwt(complete)), "");
    let secret = JwtConfig {
        secret: "0123456789abcdef0123456789abcdef".into(),
        ..JwtConfig::default()
    };
    assert_eq!(problems(&jwt(secret)), "");
}

#[test]
fn every_problem_of_jwt_is_reported() {
    let found = problems(&jwt(JwtConfig {
        jwks_url: "https://me:hunter2@id.example".into(),
        ca_file: "/nowhere/ca.pem".into(),
        jwks_file: "/nowhere/keys".into(),
        secret: "hunter2".into(),
        refresh: HumanDuration::from_secs(1),
        timeout: HumanDuration::from_secs(0),
        leeway: HumanDuration::from_secs(3600),
        audience: vec!["a".into(), "*".into()],
        claims: ClaimsConfig {
            tenants: String::new(),
            ..ClaimsConfig::default()
        },
        ..JwtConfig::default()
    }));
    for expected in [
        "auth.jwt: has keys from several places",
        "auth.jwt.jwks_url: must be https://HOST",
        "auth.jwt.ca_file: /nowhere/ca.pem",
        "auth.jwt.jwks_file: /nowhere/keys: No such file",
        "auth.jwt.secret: must be 32 bytes",
        "auth.jwt.refresh: must be between 10s and 24h",
        "auth.jwt.timeout: must be between 1s and 1m",
        "auth.jwt.leeway: must be between 0s and 5m",
        "auth.jwt.audience: has \"*\" beside others",
        "auth.jwt.claims.tenants: must be the name",
    ] {
        assert!(found.contains(expected), "{expected} is not in:\n{found}");
    }
    assert!(!found.contains("hunter2"), "{found}");
    let found = problems(&jwt(JwtConfig::default()));
    assert!(found.contains("auth.jwt: needs keys"), "{found}");
}

#[test]
fn keys_without_encryption_are_warned_of() {
    for (url, is_warned) in [
        ("http://keycloak:8080/keys", true),
        ("https://keycloak/keys", false),
        ("http://127.0.0.1:8080/keys", false),
    ] {
        let mut warnings = Problems::default();
        let config = jwt(JwtConfig {
            jwks_url: url.into(),
            ..JwtConfig::default()
        });
        config.warnings("127.0.0.1:0", &mut warnings);
        assert_eq!(!warnings.is_empty(), is_warned, "{url}: {warnings}");
    }
}

#[test]
fn a_proxy_needs_addresses_and_tenants() {
    let proxy = |proxy| AuthConfig {
        mode: Mode::Proxy,
        proxy,
        ..AuthConfig::default()
    };
    let found = problems(&proxy(ProxyConfig {
        user_header: "X User".into(),
        ..ProxyConfig::default()
    }));
    for expected in [
        "auth.proxy.trusted: needs the addresses",
        "auth.proxy.tenants: needs",
        "auth.proxy.user_header: \"X User\" is not the name",
    ] {
        assert!(found.contains(expected), "{expected} is not in:\n{found}");
    }
    let config = |trusted: &[&str]| {
        proxy(ProxyConfig {
            trusted: trusted.iter().map(|text| (*text).into()).collect(),
            tenants: BTreeMap::from([("staff".into(), vec!["acme".into()])]),
            ..ProxyConfig::default()
        })
    };
    assert_eq!(problems(&config(&["10.0.0.7", "2001:db8::/32"])), "");
    for everybody in ["0.0.0.0/0", "::/0"] {
        let found = problems(&config(&[everybody]));
        assert!(found.contains("is everybody"), "{found}");
    }
    let found = problems(&config(&["proxy.example"]));
    assert!(found.contains("is not an address"), "{found}");
}

#[test]
fn settings_of_another_mode_are_refused() {
    let mut config = jwt(JwtConfig::default());
    config.mode = Mode::None;
    config.jwt.issuer = "https://id.example".into();
    config.tokens_file = "/etc/iot/tokens".into();
    let found = problems(&config);
    assert!(
        found.contains("auth.jwt: has no effect: auth.mode is none"),
        "{found}"
    );
    assert!(found.contains("auth.tokens_file: has no effect"), "{found}");
}
