//! `store.url` taken apart.

use iot_service::config::Secret;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

const FORMS: &str = "use memory://, redis://host:6379, redis-cluster://host:6379,host:6379 or \
                     redis-sentinel://host:26379,host:26379/master (rediss... for TLS)";

/// What a URL names.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// `memory://`
    Memory,
    /// `redis://` and its relatives.
    Redis(Servers),
}

/// How the servers that are named belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    /// One server.
    Single,
    /// Some nodes of a Redis Cluster; the others are found.
    Cluster,
    /// Sentinels that know the present address of this master.
    Sentinel { master: String },
}

/// Redis servers, and what else their URL says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Servers {
    pub(super) topology: Topology,
    pub(super) tls: bool,
    /// Names or addresses, with ports; at least one.
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) db: Option<u16>,
}

impl Target {
    /// Takes `text` apart; `host:port` without a scheme is `redis://`, and several
    /// of them are `redis-cluster://`.
    ///
    /// # Errors
    /// What is wrong, without repeating what may be a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return bare(text);
        };
        let (kind, tls) = match scheme.strip_prefix("rediss") {
            Some(kind) => (Some(kind), true),
            None => (scheme.strip_prefix("redis"), false),
        };
        match (scheme, kind) {
            ("memory", _) if rest.is_empty() => Ok(Self::Memory),
            ("memory", _) => Err("memory:// takes nothing after it".into()),
            (_, Some("")) => redis(rest, Topology::Single, tls),
            (_, Some("-cluster")) => redis(rest, Topology::Cluster, tls),
            (_, Some("-sentinel")) => {
                let master = String::new();
                redis(rest, Topology::Sentinel { master }, tls)
            }
            _ => Err(format!("{scheme}:// is not a store: {FORMS}")),
        }
    }
}

/// As `REDIS_ENDPOINT` is written.
fn bare(text: &str) -> Result<Target, String> {
    let topology = if text.contains(',') {
        Topology::Cluster
    } else {
        Topology::Single
    };
    if text.contains(['@', '/']) || !text.split(',').all(|host| host.contains(':')) {
        return Err(format!("it is not a store: {FORMS}"));
    }
    redis(text, topology, false)
}

fn redis(rest: &str, mut topology: Topology, tls: bool) -> Result<Target, String> {
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (login, rest),
        None => ("", rest),
    };
    if rest.contains(['?', '#']) {
        return Err("it takes no parameters: there are settings for them".into());
    }
    let (username, password) = login.split_once(':').unwrap_or((login, ""));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut path = path.trim_end_matches('/');
    if let Topology::Sentinel { master } = &mut topology {
        let (name, db) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() {
            return Err("it needs the name of the master: redis-sentinel://host/master".into());
        }
        (*master, path) = (name.to_owned(), db);
    }
    let port = match topology {
        Topology::Sentinel { .. } => SENTINEL_PORT,
        _ => PORT,
    };
    let hosts: Result<Vec<_>, _> = hosts.split(',').map(|text| host(text, port)).collect();
    let hosts = hosts?;
    if topology == Topology::Single && hosts.len() > 1 {
        return Err("redis:// is one server: use redis-cluster:// or redis-sentinel://".into());
    }
    let db = match path {
        "" => None,
        path => Some(path.parse().map_err(|_| "the database is not a number")?),
    };
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Target::Redis(Servers {
        topology,
        tls,
        hosts,
        username: given(decode(username)?),
        password: given(decode(password)?).map(Secret::from),
        db,
    }))
}

fn host(text: &str, port: u16) -> Result<(String, u16), String> {
    let (name, rest) = match text.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((name, "")) => (name, None),
        Some((name, rest)) => (name, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("there is no host".into());
    }
    let port = match rest {
        None => port,
        Some(rest) => match rest.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err("the port is not one from 1 to 65535".into()),
        },
    };
    Ok((name.to_owned(), port))
}

/// Percent-encoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Result<String, String> {
    const BAD: &str = "user or password has a % that two hex digits don't follow";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(BAD)?;
        let digits = std::str::from_utf8(digits).map_err(|_| BAD)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| BAD)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| "user or password is not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn servers(text: &str) -> Servers {
        match Target::parse(text) {
            Ok(Target::Redis(servers)) => servers,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn one_server_a_cluster_and_sentinels() {
        let host = |name: &str, port| (name.to_owned(), port);
        assert_eq!(Target::parse("memory://"), Ok(Target::Memory));
        for (text, topology, tls, hosts) in [
            ("redis://a", Topology::Single, false, vec![host("a", 6379)]),
            ("a:7000", Topology::Single, false, vec![host("a", 7000)]),
            (
                "rediss://[::1]:1/",
                Topology::Single,
                true,
                vec![host("::1", 1)],
            ),
            (
                "redis-cluster://a,b:7000",
                Topology::Cluster,
                false,
                vec![host("a", 6379), host("b", 7000)],
            ),
            (
                "a:1,b:2",
                Topology::Cluster,
                false,
                vec![host("a", 1), host("b", 2)],
            ),
            (
                "rediss-sentinel://a,b:2/main",
                Topology::Sentinel {
                    master: "main".into(),
                },
                true,
                vec![host("a", 26379), host("b", 2)],
            ),
        ] {
            let found = servers(text);
            assert_eq!(
                (found.topology, found.tls, found.hosts),
                (topology, tls, hosts)
            );
        }
    }

    #[test]
    fn login_and_database() {
        let found = servers("redis://me:a%40b%3a@host:1/7");
        assert_eq!(found.username.as_deref(), Some("me"));
        assert_eq!(found.password, Some("a@b:".into()));
        assert_eq!(found.db, Some(7));
        let found = servers("redis-sentinel://:secret@host/main/3");
        assert_eq!(
            (found.username, found.password, found.db),
            (None, Some("secret".into()), Some(3))
        );
        assert_eq!(servers("redis://host").db, None);
    }

    #[test]
    fn what_is_no_store_is_refused_without_its_password() {
        for (text, expected) in [
            ("memory://x", "takes nothing"),
            ("localhost", "is not a store"),
            ("http://x", "http:// is not a store"),
            ("redis://a,b", "one server"),
            ("redis://", "no host"),
            ("redis://:hunter2@a:0", "not one from 1"),
            ("redis://:hunter2@a/x", "not a number"),
            ("redis://:hunter2%@a", "two hex digits"),
            ("redis://:hunter2@a?db=1", "no parameters"),
            ("me:hunter2@a:1", "is not a store"),
            ("redis-sentinel://a", "name of the master"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = Target::parse(&text);
            let _ = Target::parse(&format!("redis://{text}"));
        }
    }
}
