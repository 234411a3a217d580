use super::*;
use crate::identity::Names;

const WORD: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn new(name: &str, expires: Option<&str>) -> NewToken {
    let tenants = ["acme".to_owned()];
    let expires = expires.map(|time| time.parse().unwrap());
    NewToken::new(name, Role::Operator, [&tenants, &all(), &all()], expires).unwrap()
}

fn started(
    text: &str,
) -> (
    TokensFile,
    std::path::PathBuf,
    tempfile::TempDir,
    CancellationToken,
) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.yaml");
    std::fs::write(&path, text).unwrap();
    let stop = CancellationToken::new();
    (TokensFile::start(&path, &stop).unwrap(), path, dir, stop)
}

fn reason(result: Result<Identity, Refusal>) -> Reason {
    result.unwrap_err().reason()
}

#[tokio::test]
async fn a_new_token_is_known_by_its_entry() {
    let (one, other) = (new("grafana", None), new("other", None));
    let (tokens, ..) = started(&format!("tokens:\n{one}\n{other}\n"));
    let identity = tokens.verify(one.token.expose()).unwrap();
    assert_eq!(
        (&*identity.name, identity.role),
        ("grafana", Role::Operator)
    );
    let scope = Scope {
        tenants: names(["acme"]),
        projects: Names::All,
        places: Names::All,
    };
    assert_eq!(*identity.scope, scope);
    assert_eq!(identity.expires, None);
    assert!(
        !one.to_string().contains(one.token.expose()),
        "only its hash"
    );
    assert_ne!(one.token, other.token);
    assert_eq!(one.token.expose().len(), PREFIX.len() + 43, "256 bits");
}

#[tokio::test]
async fn other_tokens_are_refused() {
    let token = new("grafana", None);
    let (tokens, ..) = started(&format!("tokens:\n{token}\n"));
    let known = token.token.expose();
    for other in [
        &known[1..],
        &format!("{known}="),
        &known.to_uppercase(),
        WORD,
    ] {
        assert_eq!(reason(tokens.verify(other)), Reason::Unknown, "{other}");
    }
    // Who reads the file can't sign in with what it says.
    assert_eq!(reason(tokens.verify(&token.entry.sha256)), Reason::Unknown);
}

#[tokio::test]
async fn expired_tokens_are_refused() {
    let past = new("past", Some("2020-01-01T00:00:00Z"));
    let future = new("future", Some("2999-01-01T00:00:00Z"));
    let (tokens, ..) = started(&format!("tokens:\n{past}\n{future}\n"));
    assert_eq!(reason(tokens.verify(past.token.expose())), Reason::Expired);
    let identity = tokens.verify(future.token.expose()).unwrap();
    assert_eq!(identity.expires, future.entry.expires);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_removed_is_refused() {
    let (one, other) = (new("one", None), new("other", None));
    let (mut tokens, path, _dir, _stop) = started(&format!("tokens:\n{one}\n{other}\n"));
    assert!(tokens.verify(one.token.expose()).is_ok());
    std::fs::write(&path, format!("tokens:\n{other}\n")).unwrap();
    tokens.0.changed().await.unwrap();
    assert_eq!(reason(tokens.verify(one.token.expose())), Reason::Unknown);
    assert!(tokens.verify(other.token.expose()).is_ok());
}

#[test]
fn every_problem_of_a_file_is_reported() {
    let found = parse(
        "tokens:\n\
         - {name: a, sha256: 12, role: viewer, tenants: []}\n\
         - {name: a, sha256: zz, role: viewer, tenants: []}\n",
    );
    let found = found.unwrap_err().to_string();
    for expected in [
        "tokens[0].sha256: must be 64 hexadecimal digits",
        "tokens[1].sha256: must be",
        "tokens[1].name: must be given, and different",
    ] {
        assert!(found.contains(expected), "{expected} is not in:\n{found}");
    }
    for (entry, expected) in [
        (format!("name: a, sha256: {WORD}, role: viewer"), "tenants"),
        (
            format!("name: a, sha256: {WORD}, role: root, tenants: []"),
            "root",
        ),
        (
            format!("name: a, sha256: {WORD}, role: viewer, tenants: [], tenant: x"),
            "tenant",
        ),
        (
            format!("name: a, sha256: {WORD}, role: viewer, tenants: [], expires: soon"),
            "expires",
        ),
    ] {
        let found = parse(&format!("tokens: [{{{entry}}}]"))
            .unwrap_err()
            .to_string();
        assert!(found.contains(expected), "{expected} is not in:\n{found}");
    }
    let two = format!("sha256: {WORD}, role: viewer, tenants: []");
    let found = parse(&format!("tokens: [{{name: a, {two}}}, {{name: b, {two}}}]"));
    let found = found.unwrap_err().to_string();
    assert!(found.contains("that of another entry"), "{found}");
    assert!(
        parse("").is_err(),
        "an empty file is not a file without tokens"
    );
    assert!(parse("tokens: []").unwrap().is_empty());
}

#[test]
fn a_hash_that_looks_like_a_number_is_text() {
    let digits = "1234567890".repeat(7)[..64].to_owned();
    let text = format!("tokens: [{{name: 007, sha256: {digits}, role: admin, tenants: [42]}}]");
    let tokens = parse(&text).unwrap();
    let identity = &tokens[&hash(&digits).unwrap()];
    assert_eq!(&*identity.name, "007");
    assert_eq!(identity.scope.tenants, names(["42"]));
}
