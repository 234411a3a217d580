//! A connection to Redis, whichever way its servers belong together.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClientBuilder, TlsMode};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};

use crate::config::StoreConfig;
use crate::store::url::{Servers, Topology};

/// A connection; clones share it.
#[derive(Clone)]
pub(super) enum Link {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) async fn ask(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Server(connection) => cmd.query_async(connection).await,
            Self::Cluster(connection) => cmd.query_async(connection).await,
        }
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<(Servers, StoreConfig)>);

/// What is read from files for each connection, so that it may change.
struct Secrets {
    password: String,
    certificates: Option<TlsCertificates>,
}

impl Connector {
    pub(super) fn new(servers: Servers, config: StoreConfig) -> Self {
        Self(Arc::new((servers, config)))
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        *self.0.1.connect_timeout
    }

    pub(super) fn response_timeout(&self) -> Duration {
        *self.0.1.response_timeout
    }

    /// Connects and logs in. The caller sets the deadline.
    ///
    /// # Errors
    /// It didn't work.
    pub(super) async fn connect(&self) -> Result<Link, RedisError> {
        let (servers, _) = &*self.0;
        let own = self.clone();
        let secrets = tokio::task::spawn_blocking(move || own.secrets())
            .await
            .map_err(std::io::Error::other)??;
        match &servers.topology {
            Topology::Single => {
                let mut infos = self.addresses(&secrets)?;
                let info = infos.swap_remove(0);
                let client = match secrets.certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                };
                self.open(&client).await
            }
            Topology::Cluster => self.join(secrets).await,
            Topology::Sentinel { master } => {
                let client = self.master(master, secrets).await?;
                self.open(&client).await
            }
        }
    }

    fn secrets(&self) -> Result<Secrets, RedisError> {
        let (servers, config) = &*self.0;
        let unreadable = |reason| {
            let what = "a file of the section store can't be read";
            RedisError::from((ErrorKind::InvalidClientConfig, what, reason))
        };
        let certificates = match config.ca_file.as_str() {
            "" => None,
            file => {
                let root = std::fs::read(file);
                let root = root.map_err(|error| unreadable(format!("{file}: {error}")))?;
                Some(TlsCertificates {
                    client_tls: None,
                    root_cert: Some(root),
                })
            }
        };
        Ok(Secrets {
            password: config.password(servers).map_err(unreadable)?,
            certificates,
        })
    }

    fn addresses(&self, secrets: &Secrets) -> Result<Vec<ConnectionInfo>, RedisError> {
        let (servers, config) = &*self.0;
        let mut login = RedisConnectionInfo::default().set_db(config.db(servers).into());
        if let Some(username) = config.username(servers) {
            login = login.set_username(username);
        }
        if !secrets.password.is_empty() {
            login = login.set_password(&secrets.password);
        }
        let infos = self.hosts().map(|address| {
            let info = address.into_connection_info()?;
            Ok(info.set_redis_settings(login.clone()))
        });
        infos.collect()
    }

    fn hosts(&self) -> impl Iterator<Item = ConnectionAddr> {
        let (servers, _) = &*self.0;
        servers.hosts.iter().cloned().map(|(host, port)| {
            if servers.tls {
                ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: false,
                    tls_params: None,
                }
            } else {
                ConnectionAddr::Tcp(host, port)
            }
        })
    }

    async fn open(&self, client: &Client) -> Result<Link, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout()))
            .set_response_timeout(Some(self.response_timeout()));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connection.await.map(Link::Server)
    }

    async fn join(&self, secrets: Secrets) -> Result<Link, RedisError> {
        let mut builder = ClusterClientBuilder::new(self.addresses(&secrets)?)
            .connection_timeout(self.connect_timeout())
            .response_timeout(self.response_timeout());
        if let Some(certificates) = secrets.certificates {
            builder = builder.certs(certificates);
        }
        let connection = builder.build()?.get_async_connection().await;
        connection.map(Link::Cluster)
    }

    /// The present master, as sentinels know it. They are asked without a login.
    async fn master(&self, name: &str, secrets: Secrets) -> Result<Client, RedisError> {
        let (servers, config) = &*self.0;
        let mut builder =
            SentinelClientBuilder::new(self.hosts(), name, SentinelServerType::Master)?
                .set_client_to_redis_db(config.db(servers).into());
        if let Some(username) = config.username(servers) {
            builder = builder.set_client_to_redis_username(username);
        }
        if !secrets.password.is_empty() {
            builder = builder.set_client_to_redis_password(&secrets.password);
        }
        if servers.tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = secrets.certificates {
            builder = builder
                .set_client_to_sentinel_certificates(certificates.clone())
                .set_client_to_redis_certificates(certificates);
        }
        builder.build()?.async_get_client().await
    }
}
