//! The binary as a process of its own, for what can't be done to a task: to kill
//! it, and to stop it for a while.

use std::ops::Deref;

use testkit::http::Ops;
use testkit::port::free_address;
use testkit::process::{self, Program};
use testkit::wait_for;

use crate::service::Endpoints;

/// The consumer's binary with these arguments.
pub(crate) fn consumer(args: &[&str]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_iot-consumer")).args(args)
}

/// A running consumer.
pub(crate) struct Process {
    at: Endpoints,
    process: process::Process,
}

impl Process {
    /// Starts it with these settings and waits until it answers.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let at = Endpoints {
            ops: Ops(free_address()),
            http: free_address(),
        };
        let program = consumer(&[]).settings(settings);
        let program = program.set("ops.listen", at.ops.0);
        let mut process = program.set("http.listen", at.http).start();
        wait_for("the consumer to answer", async || {
            process.assert_running();
            at.ops.get("/livez").await
        })
        .await;
        Self { at, process }
    }

    /// Sends a signal by its name, `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

impl Deref for Process {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        &self.at
    }
}
