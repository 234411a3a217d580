//! A cluster of scripted brokers, for tests: it speaks just enough of the protocol over real
//! sockets, and answers fetches as a test says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI16, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::protocol::primitives::Encoder;

/// The one topic, of which there is one partition.
pub(crate) const TOPIC: &str = "device-data";
pub(crate) const TOPIC_ID: u128 = 7;
pub(crate) const PARTITION: i32 = 3;

/// What a broker answers to a fetch of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) error: i16,
    pub(crate) preferred: i32,
    pub(crate) records: Vec<u8>,
}

impl Answer {
    pub(crate) fn records(records: Vec<u8>) -> Self {
        Self {
            error: 0,
            preferred: -1,
            records,
        }
    }

    pub(crate) fn error(error: i16) -> Self {
        Self {
            error,
            ..Self::records(Vec::new())
        }
    }
}

/// A cluster of brokers, numbered from 0.
pub(crate) struct Cluster {
    pub(crate) brokers: Vec<SocketAddr>,
    pub(crate) state: Arc<State>,
}

/// What the brokers have in common.
#[derive(Debug)]
pub(crate) struct State {
    /// Who leads everything.
    pub(crate) leader: AtomicI32,
    /// The newest version of Metadata that the brokers have.
    pub(crate) metadata: AtomicI16,
    /// Which broker was asked for which offset, in order.
    pub(crate) asked: Mutex<Vec<(usize, i64)>>,
}

impl Cluster {
    /// `answers` gives what a broker answers to the fetch with that number from an offset on;
    /// `None` to close the connection instead.
    pub(crate) async fn start(
        size: usize,
        answers: impl Fn(usize, usize, i64) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..size {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = listeners.iter().map(|one| one.local_addr().unwrap());
        let brokers: Vec<_> = addresses.collect();
        let state = Arc::new(State {
            leader: AtomicI32::new(0),
            metadata: AtomicI16::new(13),
            asked: Mutex::default(),
        });
        let answers = Arc::new(answers);
        for (number, listener) in listeners.into_iter().enumerate() {
            let (brokers, state, answers) = (brokers.clone(), state.clone(), answers.clone());
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (brokers, state) = (brokers.clone(), state.clone());
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        let answer = |offset| {
                            let mut asked = state.asked.lock().unwrap();
                            asked.push((number, offset));
                            answers(number, asked.len() - 1, offset)
                        };
                        serve(stream, &brokers, &state, answer).await
                    });
                }
            });
        }
        Self { brokers, state }
    }

    pub(crate) fn asked(&self) -> Vec<(usize, i64)> {
        self.state.asked.lock().unwrap().clone()
    }
}

/// Speaks just enough of the protocol; ends when the client hangs up.
async fn serve(
    mut stream: TcpStream,
    brokers: &[SocketAddr],
    state: &State,
    answer: impl Fn(i64) -> Option<Answer>,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u32().await?;
        let mut request = vec![0; length as usize];
        stream.read_exact(&mut request).await?;
        let mut input = &request[..];
        let (api, version, correlation) = (input.get_i16(), input.get_i16(), input.get_i32());
        let client = usize::try_from(input.get_i16()).unwrap();
        input.advance(client);
        let mut out = Vec::new();
        out.put_i32(correlation);
        match api {
            18 => versions(state.metadata.load(Ordering::Relaxed), &mut out),
            3 => metadata(
                version,
                brokers,
                state.leader.load(Ordering::Relaxed),
                &mut out,
            ),
            1 => {
                let Some(answer) = answer(fetch_offset(input)) else {
                    return Ok(());
                };
                fetched(&answer, &mut out);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            other => panic!("{other} is not expected"),
        }
        // In one write, which is not delayed until the client acknowledges the length.
        let length = (out.len() as u32).to_be_bytes();
        stream.write_all(&[&length[..], &out].concat()).await?;
    }
}

fn versions(metadata: i16, out: &mut Vec<u8>) {
    out.put_i16(0);
    out.put_i32(2);
    for (api, newest) in [(1, 17), (3, metadata)] {
        out.put_i16(api);
        out.put_i16(0);
        out.put_i16(newest);
    }
}

fn metadata(version: i16, brokers: &[SocketAddr], leader: i32, out: &mut Vec<u8>) {
    let mut to = Encoder::new(out, version >= 9);
    // Of the header.
    to.tagged_fields();
    to.i32(0);
    to.array_length(brokers.len());
    for (number, broker) in (0..).zip(brokers) {
        to.i32(number);
        to.string(&broker.ip().to_string());
        to.i32(broker.port().into());
        to.string("rack");
        to.tagged_fields();
    }
    to.string("cluster");
    to.i32(0);
    to.array_length(1);
    to.i16(0);
    to.string(TOPIC);
    if version >= 10 {
        to.uuid(TOPIC_ID);
    }
    to.bool(false);
    to.array_length(1);
    to.i16(0);
    for number in [PARTITION, leader, 5] {
        to.i32(number);
    }
    for _ in ["replicas", "in sync", "offline"] {
        to.array_length(0);
    }
    to.tagged_fields();
    // Authorized operations, of the topic and of the cluster.
    for _ in ["topic", "cluster"] {
        if version >= 8 {
            to.i32(0);
        }
        to.tagged_fields();
    }
}

/// The offset in a request for one partition.
fn fetch_offset(mut request: &[u8]) -> i64 {
    request.advance(25);
    assert_eq!(request.get_i32(), 1, "topics");
    request.advance(2 + TOPIC.len());
    assert_eq!(request.get_i32(), 1, "a request has a partition once");
    request.advance(4 + 4);
    request.get_i64()
}

fn fetched(answer: &Answer, out: &mut Vec<u8>) {
    out.put_i32(0);
    out.put_i16(0);
    out.put_i32(0);
    out.put_i32(1);
    Encoder::new(out, false).string(TOPIC);
    out.put_i32(1);
    out.put_i32(PARTITION);
    out.put_i16(answer.error);
    for end in [100, 90, 0] {
        out.put_i64(end);
    }
    out.put_i32(-1);
    out.put_i32(answer.preferred);
    out.put_i32(answer.records.len() as i32);
    out.extend_from_slice(&answer.records);
}
