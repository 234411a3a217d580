//! Identities that a proxy vouches for, such as oauth2-proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::claims::{names, role};
use crate::config::network;
use crate::config::{ProxyConfig, RolesConfig};
use crate::identity::{Identity, Names, Scope};
use crate::refusal::{Reason, Refusal};

/// Reads the headers of trusted proxies.
#[derive(Debug)]
pub(crate) struct Proxy {
    trusted: Vec<IpNet>,
    user: HeaderName,
    groups: HeaderName,
    tenants: BTreeMap<String, Vec<String>>,
    roles: RolesConfig,
}

impl Proxy {
    /// # Errors
    /// An address or the name of a header is not valid, which [`ProxyConfig`] reports, too.
    pub(crate) fn new(config: &ProxyConfig) -> anyhow::Result<Self> {
        let trusted: Result<Vec<_>, _> = config.trusted.iter().map(|text| network(text)).collect();
        let trusted = trusted.map_err(anyhow::Error::msg);
        Ok(Self {
            trusted: trusted.context("auth.proxy.trusted")?,
            user: config
                .user_header
                .parse()
                .context("auth.proxy.user_header")?,
            groups: config
                .groups_header
                .parse()
                .context("auth.proxy.groups_header")?,
            tenants: config.tenants.clone(),
            roles: config.roles.clone(),
        })
    }

    pub(crate) fn identify(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Identity, Refusal> {
        // An IPv4 client of an IPv6 listener.
        let peer = peer.to_canonical();
        if !self.trusted.iter().any(|network| network.contains(&peer)) {
            let detail = format!("{peer} is not in auth.proxy.trusted");
            return Err(Refusal::new(Reason::Untrusted, detail));
        }
        let groups = self.groups(headers)?;
        let granted = groups.iter().filter_map(|group| self.tenants.get(*group));
        let tenants: BTreeSet<_> = granted.flatten().map(|tenant| tenant.as_str()).collect();
        Ok(Identity {
            name: self.user(headers)?.into(),
            role: role(groups.iter().copied(), &self.roles),
            scope: Arc::new(Scope {
                tenants: names(tenants),
                projects: Names::All,
                places: Names::All,
            }),
            expires: None,
        })
    }

    /// The user. Two headers would be one of the proxy and one of the client.
    fn user<'h>(&self, headers: &'h HeaderMap) -> Result<&'h str, Refusal> {
        let mut values = headers.get_all(&self.user).iter();
        let user = values.next().map(|user| user.to_str().map(str::trim));
        if values.next().is_some() {
            let detail = format!("more than one header {}", self.user);
            return Err(Refusal::new(Reason::Malformed, detail));
        }
        match user {
            None | Some(Ok("")) => {
                let detail = format!("no header {}", self.user);
                Err(Refusal::new(Reason::Missing, detail))
            }
            Some(Ok(user)) => Ok(user),
            Some(Err(_)) => Err(not_text(&self.user)),
        }
    }

    fn groups<'h>(&self, headers: &'h HeaderMap) -> Result<Vec<&'h str>, Refusal> {
        let mut groups = Vec::new();
        for value in headers.get_all(&self.groups) {
            let listed = value.to_str().map_err(|_| not_text(&self.groups))?;
            let listed = listed.split(',').map(str::trim);
            groups.extend(listed.filter(|group| !group.is_empty()));
        }
        Ok(groups)
    }
}

fn not_text(header: &HeaderName) -> Refusal {
    let detail = format!("header {header} is not ASCII");
    Refusal::new(Reason::Malformed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Role;

    fn identify(peer: &str, given: &[(&str, &str)]) -> Result<Identity, Reason> {
        let proxy = Proxy::new(&ProxyConfig {
            trusted: vec!["10.0.0.0/24".into(), "2001:db8::7".into()],
            tenants: BTreeMap::from([
                ("acme-staff".into(), vec!["acme".into()]),
                (
                    "globex-staff".into(),
                    vec!["globex".into(), "initech".into()],
                ),
                ("iot-everything".into(), vec!["*".into()]),
            ]),
            roles: RolesConfig {
                operator: vec!["iot-operators".into()],
                admin: vec!["iot-admins".into()],
            },
            ..ProxyConfig::default()
        });
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let identity = proxy.unwrap().identify(&headers, peer.parse().unwrap());
        identity.map_err(|refusal| refusal.reason())
    }

    fn only(tenants: &[&str]) -> Names {
        names(tenants.iter().copied())
    }

    #[test]
    fn groups_give_tenants_and_the_highest_role() {
        let groups = "acme-staff, globex-staff,iot-operators,other";
        for peer in ["10.0.0.9", "::ffff:10.0.0.9", "2001:db8::7"] {
            let identity = identify(
                peer,
                &[("x-forwarded-user", "ada"), ("x-forwarded-groups", groups)],
            );
            let identity = identity.unwrap();
            assert_eq!((&*identity.name, identity.role), ("ada", Role::Operator));
            assert_eq!(identity.scope.tenants, only(&["acme", "globex", "initech"]));
        }
        let given = [
            ("x-forwarded-user", "root"),
            ("x-forwarded-groups", "iot-everything"),
            ("x-forwarded-groups", "iot-operators,iot-admins"),
        ];
        let identity = identify("10.0.0.9", &given).unwrap();
        assert_eq!(identity.role, Role::Admin);
        assert_eq!(identity.scope.tenants, Names::All);
    }

    #[test]
    fn a_user_without_groups_sees_nothing() {
        let identity = identify("10.0.0.9", &[("x-forwarded-user", "eve")]).unwrap();
        assert_eq!(identity.role, Role::Viewer);
        assert_eq!(identity.scope.tenants, only(&[]));
    }

    #[test]
    fn headers_of_others_are_not_believed() {
        let user = ("x-forwarded-user", "ada");
        for peer in ["10.0.1.9", "127.0.0.1", "2001:db8::8", "::ffff:10.0.1.1"] {
            assert_eq!(identify(peer, &[user]), Err(Reason::Untrusted), "{peer}");
        }
    }

    #[test]
    fn a_missing_or_doubtful_user_is_refused() {
        let peer = "10.0.0.9";
        assert_eq!(identify(peer, &[]), Err(Reason::Missing));
        assert_eq!(
            identify(peer, &[("x-forwarded-user", " ")]),
            Err(Reason::Missing)
        );
        let two = [("x-forwarded-user", "ada"), ("x-forwarded-user", "root")];
        assert_eq!(identify(peer, &two), Err(Reason::Malformed));
        assert_eq!(
            identify(peer, &[("x-forwarded-user", "adé")]),
            Err(Reason::Malformed)
        );
    }
}
