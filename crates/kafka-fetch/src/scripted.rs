//! A cluster of scripted brokers, for tests: it speaks just enough of the protocol over real
//! sockets, and answers fetches as a test says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::protocol::primitives::{Decoder, Encoder};
use crate::records::tests::EPOCH;

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
    /// Epoch and end offset, if the log was truncated (since Fetch 12).
    pub(crate) diverging: Option<(i32, i64)>,
}

impl Answer {
    pub(crate) fn records(records: Vec<u8>) -> Self {
        Self {
            error: 0,
            preferred: -1,
            records,
            diverging: None,
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
    /// What all brokers know but those that are behind.
    pub(crate) known: Mutex<Known>,
    /// What brokers know that are behind.
    pub(crate) behind: Mutex<HashMap<usize, Known>>,
    /// The newest versions of Metadata and Fetch that the brokers have.
    pub(crate) metadata: AtomicI16,
    pub(crate) fetch: AtomicI16,
    /// Which broker was asked for which offset, in order.
    pub(crate) asked: Mutex<Vec<(usize, i64)>>,
    /// Leader epoch and last fetched epoch of each fetch, -1 for unknown.
    pub(crate) epochs: Mutex<Vec<[i32; 2]>>,
}

/// What a broker knows of the topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Who leads it.
    pub(crate) leader: i32,
    pub(crate) epoch: i32,
    pub(crate) topic_id: u128,
    /// End of the log, which starts at 0.
    pub(crate) end: i64,
}

impl State {
    fn known(&self, broker: usize) -> Known {
        let behind = self.behind.lock().unwrap().get(&broker).copied();
        behind.unwrap_or_else(|| *self.known.lock().unwrap())
    }

    /// Changes what all brokers know.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap());
    }
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
            known: Mutex::new(Known {
                leader: 0,
                epoch: EPOCH,
                topic_id: TOPIC_ID,
                end: 100,
            }),
            behind: Mutex::default(),
            metadata: AtomicI16::new(13),
            fetch: AtomicI16::new(17),
            asked: Mutex::default(),
            epochs: Mutex::default(),
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
                        serve(stream, number, &brokers, &state, answer).await
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
    number: usize,
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
            18 => versions(state, &mut out),
            3 => metadata(version, brokers, state.known(number), &mut out),
            2 => ends(input, state.known(number), &mut out),
            1 => {
                let known = state.known(number);
                let asked = fetch_position(version, input);
                let epochs = [asked.leader_epoch, asked.last_epoch];
                state.epochs.lock().unwrap().push(epochs);
                let is_other = asked.topic_id.is_some_and(|id| id != known.topic_id);
                let answered = if is_other {
                    // UNKNOWN_TOPIC_ID
                    Some(Answer::error(100))
                } else if asked.leader_epoch > known.epoch {
                    // UNKNOWN_LEADER_EPOCH
                    Some(Answer::error(75))
                } else {
                    answer(asked.offset)
                };
                let Some(answer) = answered else {
                    return Ok(());
                };
                fetched(version, asked.topic_id, &answer, &mut out);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            other => panic!("{other} is not expected"),
        }
        // In one write, which is not delayed until the client acknowledges the length.
        let length = (out.len() as u32).to_be_bytes();
        stream.write_all(&[&length[..], &out].concat()).await?;
    }
}

fn versions(state: &State, out: &mut Vec<u8>) {
    out.put_i16(0);
    out.put_i32(3);
    let newest = |version: &AtomicI16| version.load(Ordering::Relaxed);
    for (api, newest) in [
        (1, newest(&state.fetch)),
        (2, 9),
        (3, newest(&state.metadata)),
    ] {
        out.put_i16(api);
        out.put_i16(0);
        out.put_i16(newest);
    }
}

fn metadata(version: i16, brokers: &[SocketAddr], known: Known, out: &mut Vec<u8>) {
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
        to.uuid(known.topic_id);
    }
    to.bool(false);
    to.array_length(1);
    to.i16(0);
    for number in [PARTITION, known.leader, known.epoch] {
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

/// What a fetch of one partition asks for.
struct Asked {
    topic_id: Option<u128>,
    leader_epoch: i32,
    offset: i64,
    last_epoch: i32,
}

fn fetch_position(version: i16, request: &[u8]) -> Asked {
    let mut from = Decoder::new(request, version >= 12);
    // Of the header.
    from.tagged_fields().unwrap();
    // The replica, the wait and both limits.
    for _ in 0..4 {
        from.i32().unwrap();
    }
    from.bool().unwrap();
    // The session and its epoch.
    from.i64().unwrap();
    assert_eq!(from.array_length(), Ok(1), "topics");
    let topic_id = (version >= 13).then(|| from.uuid().unwrap());
    if topic_id.is_none() {
        assert_eq!(from.string(), Ok(TOPIC));
    }
    assert_eq!(from.array_length(), Ok(1), "a request has a partition once");
    from.i32().unwrap();
    Asked {
        topic_id,
        leader_epoch: from.i32().unwrap(),
        offset: from.i64().unwrap(),
        last_epoch: if version >= 12 {
            from.i32().unwrap()
        } else {
            -1
        },
    }
}

fn fetched(version: i16, topic_id: Option<u128>, answer: &Answer, out: &mut Vec<u8>) {
    let mut to = Encoder::new(out, version >= 12);
    // Of the header.
    to.tagged_fields();
    to.i32(0);
    to.i16(0);
    to.i32(0);
    to.array_length(1);
    match topic_id {
        Some(id) => to.uuid(id),
        None => to.string(TOPIC),
    }
    to.array_length(1);
    to.i32(PARTITION);
    to.i16(answer.error);
    for end in [100, 90, 0] {
        to.i64(end);
    }
    to.array_length(0);
    to.i32(answer.preferred);
    to.bytes(&answer.records);
    match answer.diverging {
        // One tagged field of 13 bytes, with tag 0.
        Some((epoch, end)) if version >= 12 => {
            for byte in [1, 0, 13] {
                to.i8(byte);
            }
            to.i32(epoch);
            to.i64(end);
            to.tagged_fields();
        }
        _ => to.tagged_fields(),
    }
    // Of the topic and the response.
    to.tagged_fields();
    to.tagged_fields();
}

/// One end of the log: 0 is its start.
fn ends(request: &[u8], known: Known, out: &mut Vec<u8>) {
    let mut from = Decoder::new(request, false);
    from.i32().unwrap();
    from.bool().unwrap();
    assert_eq!(from.array_length(), Ok(1), "topics");
    from.string().unwrap();
    assert_eq!(from.array_length(), Ok(1), "a request has a partition once");
    let (partition, epoch, side) = (from.i32(), from.i32().unwrap(), from.i64().unwrap());
    assert_eq!(partition, Ok(PARTITION));
    let mut to = Encoder::new(out, false);
    to.i32(0);
    to.array_length(1);
    to.string(TOPIC);
    to.array_length(1);
    to.i32(PARTITION);
    to.i16(match epoch {
        // UNKNOWN_LEADER_EPOCH, FENCED_LEADER_EPOCH
        epoch if epoch > known.epoch => 75,
        epoch if epoch < known.epoch => 74,
        _ => 0,
    });
    to.i64(-1);
    to.i64(if side == -2 { 0 } else { known.end });
    to.i32(known.epoch);
}
