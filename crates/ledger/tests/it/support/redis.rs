//! A Redis of a test's own, and what a test changes in it.

use redis::{Client, Cmd, Connection, FromRedisValue, cmd};
use testkit::redis::RedisServer;

/// A server and its address.
pub(crate) struct Redis {
    pub(crate) url: String,
    /// Killed when dropped.
    _server: RedisServer,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let server = RedisServer::start(&[]).await;
        Self {
            url: server.url(),
            _server: server,
        }
    }

    fn connection(&self) -> Connection {
        let client = Client::open(&*self.url).unwrap();
        client.get_connection().unwrap()
    }

    pub(crate) fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query(&mut self.connection()).unwrap()
    }

    /// Fields of a hash, in their order by name.
    pub(crate) fn fields(&self, key: &str) -> Vec<String> {
        let mut fields: Vec<String> = self.ask(cmd("HKEYS").arg(key));
        fields.sort_unstable();
        fields
    }

    pub(crate) fn field(&self, key: &str, field: &str) -> Option<Vec<u8>> {
        self.ask(cmd("HGET").arg(key).arg(field))
    }

    pub(crate) fn set_field(&self, key: &str, field: &str, value: &[u8]) {
        let _: i64 = self.ask(cmd("HSET").arg(key).arg(field).arg(value));
    }

    pub(crate) fn remove_field(&self, key: &str, field: &str) {
        let removed: i64 = self.ask(cmd("HDEL").arg(key).arg(field));
        assert_eq!(removed, 1, "{key} has {field:?}");
    }

    /// Keys that match a pattern, in their order.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(cmd("KEYS").arg(pattern));
        keys.sort_unstable();
        keys
    }
}
