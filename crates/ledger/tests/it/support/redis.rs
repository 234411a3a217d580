//! A Redis of a test's own, and what a test changes in it.

use std::process::{Child, Command, Stdio};

use redis::{Client, Cmd, Connection, FromRedisValue, cmd};
use tempfile::TempDir;

use super::{free_port, wait_for};

/// A server in memory; killed when dropped.
pub(crate) struct RedisServer {
    pub(crate) url: String,
    child: Child,
    _dir: TempDir,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port().to_string());
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port]);
        command.current_dir(dir.path()).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).spawn();
        let server = Self {
            url: format!("redis://127.0.0.1:{port}"),
            child: child.expect("redis-server, which scripts/stack installs"),
            _dir: dir,
        };
        wait_for("redis-server", async || {
            let mut connection = Client::open(&*server.url)?.get_connection()?;
            cmd("PING").query::<String>(&mut connection)
        })
        .await;
        server
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

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
