//! Fetching from a broker that answers what a test says, over a real socket.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use bytes::{Buf, BufMut};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::records::tests::plain;
use super::wire::put_text;
use super::*;

const TOPIC: &str = "device-data";

/// What a broker answers to a fetch of one partition.
#[derive(Debug, Clone)]
struct Answer {
    error: i16,
    preferred: i32,
    records: Vec<u8>,
}

impl Answer {
    fn records(records: Vec<u8>) -> Self {
        Self {
            error: 0,
            preferred: -1,
            records,
        }
    }

    fn error(error: i16) -> Self {
        Self {
            error,
            ..Self::records(Vec::new())
        }
    }
}

/// A cluster of brokers, numbered from 0.
struct Cluster {
    brokers: Vec<SocketAddr>,
    /// Who leads everything.
    leader: Arc<AtomicI32>,
    /// Which broker was asked for which offset, in order.
    asked: Arc<Mutex<Vec<(usize, i64)>>>,
}

impl Cluster {
    /// `answers` gives what a broker says to the fetch with that number; none to close
    /// the connection instead.
    async fn start(
        size: usize,
        answers: impl Fn(usize, usize) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..size {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let brokers: Vec<_> = listeners
            .iter()
            .map(|one| one.local_addr().unwrap())
            .collect();
        let (asked, answers) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(answers));
        let leader = Arc::<AtomicI32>::default();
        for (number, listener) in listeners.into_iter().enumerate() {
            let (brokers, leader) = (brokers.clone(), leader.clone());
            let (asked, answers) = (asked.clone(), answers.clone());
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (brokers, leader) = (brokers.clone(), leader.clone());
                    let (asked, answers) = (asked.clone(), answers.clone());
                    let answer = move |offset| {
                        let mut asked = asked.lock().unwrap();
                        asked.push((number, offset));
                        answers(number, asked.len() - 1)
                    };
                    tokio::spawn(async move { serve(stream, &brokers, &leader, answer).await });
                }
            });
        }
        Self {
            brokers,
            leader,
            asked,
        }
    }

    fn reader(&self, metrics: &Arc<Metrics>) -> (Reader, Fetcher, Arc<Progress>) {
        let config = KafkaConfig {
            brokers: vec![self.brokers[0].to_string()],
            ..KafkaConfig::default()
        };
        let fetcher = Fetcher::start(&config, metrics.clone()).unwrap();
        let progress = Arc::<Progress>::default();
        let reader = fetcher.read(&TopicPartition::new(TOPIC, 3), 10, progress.clone());
        (reader, fetcher, progress)
    }

    fn asked(&self) -> Vec<(usize, i64)> {
        self.asked.lock().unwrap().clone()
    }
}

/// Speaks just enough of the protocol; ends when the other side does.
async fn serve(
    mut stream: TcpStream,
    brokers: &[SocketAddr],
    leader: &AtomicI32,
    answer: impl Fn(i64) -> Option<Answer>,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u32().await?;
        let mut request = vec![0; length as usize];
        stream.read_exact(&mut request).await?;
        let mut input = &request[..];
        let (api, _, correlation) = (input.get_i16(), input.get_i16(), input.get_i32());
        let client = usize::try_from(input.get_i16()).unwrap();
        input.advance(client);
        let mut out = Vec::new();
        out.put_i32(correlation);
        match api {
            18 => versions(&mut out),
            3 => metadata(brokers, leader.load(Ordering::Relaxed), &mut out),
            1 => {
                // Topic by topic and partition by partition; there is one of each.
                input.advance(29 + 2 + TOPIC.len() + 4 + 4 + 4);
                let Some(answer) = answer(input.get_i64()) else {
                    return Ok(());
                };
                fetched(&answer, &mut out);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            other => panic!("{other} is not expected"),
        }
        stream.write_u32(out.len() as u32).await?;
        stream.write_all(&out).await?;
    }
}

fn versions(out: &mut Vec<u8>) {
    out.put_i16(0);
    out.put_i32(2);
    for (api, newest) in [(1, 17), (3, 13)] {
        out.put_i16(api);
        out.put_i16(0);
        out.put_i16(newest);
    }
}

fn metadata(brokers: &[SocketAddr], leader: i32, out: &mut Vec<u8>) {
    out.put_i32(0);
    out.put_i32(brokers.len() as i32);
    for (number, broker) in (0..).zip(brokers) {
        out.put_i32(number);
        put_text(out, &broker.ip().to_string());
        out.put_i32(broker.port().into());
        out.put_i16(-1);
    }
    out.put_i16(-1);
    out.put_i32(0);
    out.put_i32(1);
    out.put_i16(0);
    put_text(out, TOPIC);
    out.put_u8(0);
    out.put_i32(1);
    out.put_i16(0);
    for number in [3, leader, 5, 0, 0, 0] {
        out.put_i32(number);
    }
}

fn fetched(answer: &Answer, out: &mut Vec<u8>) {
    out.put_i32(0);
    out.put_i16(0);
    out.put_i32(0);
    out.put_i32(1);
    put_text(out, TOPIC);
    out.put_i32(1);
    out.put_i32(3);
    out.put_i16(answer.error);
    for end in [100, 90, 0] {
        out.put_i64(end);
    }
    out.put_i32(-1);
    out.put_i32(answer.preferred);
    out.put_i32(answer.records.len() as i32);
    out.extend_from_slice(&answer.records);
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&Registry::new()).unwrap())
}

async fn next(reader: &mut Reader) -> Result<(usize, i64), Unreadable> {
    let next = tokio::time::timeout(Duration::from_secs(60), reader.next());
    let batch = next.await.expect("in time")?;
    Ok((batch.len(), batch.next()))
}

#[tokio::test]
async fn it_goes_on_where_it_was_after_every_trouble() {
    let cluster = Cluster::start(1, |_, number| match number {
        0 => Some(Answer::records(plain(10, &[b"a", b"b"]))),
        // Not the leader, no such topic, not authorised; a connection that ends.
        1 => Some(Answer::error(6)),
        2 => Some(Answer::error(3)),
        3 => Some(Answer::error(29)),
        4 => None,
        5 => Some(Answer::records(plain(12, &[b"c"]))),
        _ => Some(Answer::records(Vec::new())),
    });
    let (cluster, metrics) = (cluster.await, metrics());
    let (mut reader, _fetcher, progress) = cluster.reader(&metrics);
    assert_eq!(next(&mut reader).await.unwrap(), (2, 12));
    assert_eq!(next(&mut reader).await.unwrap(), (1, 13));
    let asked = cluster.asked();
    assert_eq!(
        asked[..6],
        [(0, 10), (0, 12), (0, 12), (0, 12), (0, 12), (0, 12)]
    );
    assert_eq!(metrics.fetch_errors.get(), 4);
    assert_eq!((progress.end(), progress.not_read()), (Some(90), None));
}

#[tokio::test]
async fn what_keeps_it_from_reading_is_told() {
    let cluster = Cluster::start(1, |_, _| Some(Answer::error(29))).await;
    let (_reader, _fetcher, progress) = cluster.reader(&metrics());
    let reason = async {
        loop {
            if let Some((_, Some(reason))) = progress.not_read() {
                return reason;
            }
            tokio::task::yield_now().await;
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(60), reason);
    assert_eq!(reason.await.unwrap(), "not authorised to read the topic");
}

#[tokio::test]
async fn a_server_that_is_no_broker_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let settings = Settings::new(&KafkaConfig::default()).unwrap();
    let opened = connection::Connection::open(&address.to_string(), &settings).await;
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("is this Kafka"), "{error}");
}

#[tokio::test]
async fn an_offset_that_is_gone_is_said() {
    let cluster = Cluster::start(1, |_, _| Some(Answer::error(1))).await;
    let (mut reader, _fetcher, _) = cluster.reader(&metrics());
    let next = next(&mut reader).await;
    assert!(matches!(next, Err(Unreadable::OutOfRange)), "{next:?}");
}

#[tokio::test]
async fn damage_is_said_after_what_came_before_it() {
    let mut log = plain(11, &[b"b"]);
    *log.last_mut().unwrap() ^= 1;
    let log = [plain(10, &[b"a"]), log].concat();
    let cluster = Cluster::start(1, move |_, _| Some(Answer::records(log.clone()))).await;
    let (mut reader, _fetcher, _) = cluster.reader(&metrics());
    assert_eq!(next(&mut reader).await.unwrap(), (1, 11));
    let next = next(&mut reader).await;
    assert!(matches!(next, Err(Unreadable::Bad(_))), "{next:?}");
}

#[tokio::test]
async fn a_replica_nearby_is_asked_until_it_fails() {
    let cluster = Cluster::start(2, |broker, number| match (broker, number) {
        (0, 0) => Some(Answer {
            preferred: 1,
            ..Answer::records(Vec::new())
        }),
        (1, 1) => Some(Answer::records(plain(10, &[b"a"]))),
        // A replica that is behind knows less than the leader.
        (1, 2) => Some(Answer::error(1)),
        (0, 3) => Some(Answer::records(plain(11, &[b"b"]))),
        _ => Some(Answer::records(Vec::new())),
    });
    let cluster = cluster.await;
    let (mut reader, _fetcher, _) = cluster.reader(&metrics());
    assert_eq!(next(&mut reader).await.unwrap(), (1, 11));
    assert_eq!(next(&mut reader).await.unwrap(), (1, 12));
    assert_eq!(cluster.asked()[..4], [(0, 10), (1, 10), (1, 11), (0, 11)]);
}

#[tokio::test]
async fn a_broker_that_no_longer_leads_and_does_not_know_is_left() {
    let cluster = Cluster::start(2, |_, _| Some(Answer::records(Vec::new()))).await;
    let metrics = metrics();
    let (_reader, _fetcher, _) = cluster.reader(&metrics);
    let is_asked_again = async || {
        let before = cluster.asked().len();
        while cluster.asked().len() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    is_asked_again().await;
    cluster.leader.store(1, Ordering::Relaxed);
    // More than a minute, of which none passes while an answer is awaited.
    for _ in 0..40 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
        is_asked_again().await;
    }
    assert_eq!(cluster.asked().last(), Some(&(1, 10)));
    assert_eq!(metrics.fetch_errors.get(), 0);
}

#[tokio::test]
async fn an_owner_that_is_behind_is_not_fetched_for() {
    let cluster = Cluster::start(1, |_, number| {
        Some(Answer::records(plain(10 + number as i64, &[b"x"])))
    });
    let cluster = cluster.await;
    let (mut reader, fetcher, progress) = cluster.reader(&metrics());
    while progress.waiting() < AHEAD {
        tokio::task::yield_now().await;
    }
    // Nothing tells that it will not be asked for more; by then it would have been.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.asked().len(), AHEAD);
    for expected in 11..20 {
        assert_eq!(next(&mut reader).await.unwrap(), (1, expected));
    }
    drop((reader, fetcher));
    while progress.waiting() > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn properties_of_librdkafka_mean_what_they_say() {
    let mut config = KafkaConfig::default();
    for (name, value) in [
        ("fetch.wait.max.ms", "10"),
        ("max.partition.fetch.bytes", "1000"),
        ("client.rack", "a"),
    ] {
        config.properties.insert(name.into(), value.into());
    }
    let settings = Settings::new(&config).unwrap();
    assert_eq!(settings.max_wait, Duration::from_millis(10));
    assert_eq!((settings.partition_bytes, settings.min_bytes), (1000, 1));
    assert_eq!(settings.rack, "a");
    config
        .properties
        .insert("fetch.min.bytes".into(), "x".into());
    let error = Settings::new(&config).unwrap_err().to_string();
    assert_eq!(error, "kafka.properties.fetch.min.bytes");
}
