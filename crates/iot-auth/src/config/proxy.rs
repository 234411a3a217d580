//! Section `auth.proxy`.

use std::collections::BTreeMap;

use http::HeaderName;
use iot_service::config::Problems;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::RolesConfig;

/// Section `auth.proxy`. The defaults are what oauth2-proxy sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// Addresses of the proxies, or networks such as `10.0.0.0/24`.
    pub trusted: Vec<String>,
    /// The header with the name of the user.
    pub user_header: String,
    /// The header with the groups of the user, separated by commas.
    pub groups_header: String,
    /// The tenants of each group; `*` for all.
    pub tenants: BTreeMap<String, Vec<String>>,
    /// Groups that have a role.
    pub roles: RolesConfig,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            user_header: "X-Forwarded-User".into(),
            groups_header: "X-Forwarded-Groups".into(),
            tenants: BTreeMap::new(),
            roles: RolesConfig::default(),
        }
    }
}

impl ProxyConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.trusted.is_empty() {
            let message = "needs the addresses of the proxies: the headers of others are not \
                           believed";
            problems.add("auth.proxy.trusted", message);
        }
        for text in &self.trusted {
            match network(text) {
                Err(message) => problems.add("auth.proxy.trusted", message),
                Ok(network) if network.prefix_len() == 0 => {
                    let message = format!("{text} is everybody: anyone could claim any name");
                    problems.add("auth.proxy.trusted", message);
                }
                Ok(_) => {}
            }
        }
        for (key, name) in [
            ("user_header", &self.user_header),
            ("groups_header", &self.groups_header),
        ] {
            if name.parse::<HeaderName>().is_err() {
                let message = format!("{name:?} is not the name of a header");
                problems.add(format!("auth.proxy.{key}"), message);
            }
        }
        if self.tenants.is_empty() {
            let message = "needs the tenants of at least one group, or nobody sees anything: \
                           {GROUP: [TENANT]}";
            problems.add("auth.proxy.tenants", message);
        }
    }
}

/// A network, or a single address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| address());
    network.map_err(|_| format!("{text:?} is not an address or a network such as 10.0.0.0/24"))
}
