use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::*;

const TOPIC: &str = "t";
/// So many that parsing them takes longer than noticing a closed connection.
const PARTITIONS: i32 = 5_000;

/// A broker that shuts down at the first record, with an empty list of brokers as its last
/// answer; then it comes back and takes everything.
struct Broker {
    address: SocketAddr,
    streams: Mutex<Vec<TcpStream>>,
    phase: Mutex<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Up,
    Leaving,
    Gone,
    Back,
}

impl Broker {
    fn start() -> Arc<Self> {
        let mut listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let broker = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            streams: Mutex::default(),
            phase: Mutex::new(Phase::Up),
        });
        let me = broker.clone();
        std::thread::spawn(move || {
            loop {
                listener.set_nonblocking(true).unwrap();
                while me.phase() != Phase::Gone {
                    match listener.accept() {
                        Ok((stream, _)) => me.attend(stream),
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
                drop(listener);
                std::thread::sleep(Duration::from_millis(500));
                listener = TcpListener::bind(me.address).unwrap();
                *me.phase.lock().unwrap() = Phase::Back;
            }
        });
        broker
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap()
    }

    fn attend(self: &Arc<Self>, stream: TcpStream) {
        stream.set_nonblocking(false).unwrap();
        let clone = stream.try_clone().unwrap();
        self.streams.lock().unwrap().push(clone);
        let me = self.clone();
        // The client may close the connection at any time.
        std::thread::spawn(move || me.serve(stream));
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut head = [0; 4];
            stream.read_exact(&mut head)?;
            let mut request = vec![0; u32::from_be_bytes(head) as usize];
            stream.read_exact(&mut request)?;
            let api = i16::from_be_bytes([request[0], request[1]]);
            let mut answer = request[4..8].to_vec();
            match api {
                0 => self.produced(&mut answer),
                3 => self.metadata(&mut answer),
                18 => versions(request[3], &mut answer),
                other => panic!("unexpected request {other}"),
            }
            let length = (answer.len() as u32).to_be_bytes();
            stream.write_all(&[&length[..], &answer].concat())?;
            if api == 3 && self.phase() == Phase::Leaving {
                *self.phase.lock().unwrap() = Phase::Gone;
                for stream in self.streams.lock().unwrap().drain(..) {
                    stream.shutdown(Shutdown::Both)?;
                }
            }
        }
    }

    fn produced(&self, out: &mut Vec<u8>) {
        let not_leader = self.phase() == Phase::Up;
        if not_leader {
            *self.phase.lock().unwrap() = Phase::Leaving;
        }
        int(out, 1);
        text(out, TOPIC);
        int(out, 1);
        int(out, 0);
        short(out, if not_leader { 6 } else { 0 });
        out.extend([0; 8 + 8 + 4]);
    }

    fn metadata(&self, out: &mut Vec<u8>) {
        let leaving = self.phase() == Phase::Leaving;
        int(out, 0);
        if leaving {
            int(out, 0);
        } else {
            int(out, 1);
            int(out, 1);
            text(out, &self.address.ip().to_string());
            int(out, self.address.port().into());
            short(out, -1);
        }
        short(out, -1);
        int(out, 1);
        int(out, 1);
        short(out, 0);
        text(out, TOPIC);
        out.push(0);
        int(out, PARTITIONS);
        for partition in 0..PARTITIONS {
            short(out, if leaving { 5 } else { 0 });
            int(out, partition);
            int(out, if leaving { -1 } else { 1 });
            int(out, 0);
            int(out, 0);
        }
    }
}

fn versions(asked: u8, out: &mut Vec<u8>) {
    // Only version 0 is known, and the answer is always in it.
    short(out, if asked > 0 { 35 } else { 0 });
    int(out, 3);
    for (api, newest) in [(0, 3), (3, 4), (18, 0)] {
        short(out, api);
        short(out, 0);
        short(out, newest);
    }
}

fn short(out: &mut Vec<u8>, number: i16) {
    out.extend(number.to_be_bytes());
}

fn int(out: &mut Vec<u8>, number: i32) {
    out.extend(number.to_be_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    short(out, text.len() as i16);
    out.extend(text.as_bytes());
}

struct Producing {
    rebootstrap: Rebootstrap,
    delivered: Mutex<Option<bool>>,
}

impl ClientContext for Producing {
    fn error(&self, error: KafkaError, _: &str) {
        self.rebootstrap.note(&error);
    }
}

impl ProducerContext for Producing {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        *self.delivered.lock().unwrap() = Some(result.is_ok());
    }
}

#[test]
fn a_client_that_has_lost_its_only_broker_reconnects() {
    let broker = Broker::start();
    let brokers = [broker.address.to_string()];
    let context = Producing {
        rebootstrap: Rebootstrap::new(&brokers).unwrap(),
        delivered: Mutex::default(),
    };
    let producer: BaseProducer<Producing> = ClientConfig::new()
        .set("bootstrap.servers", brokers.join(","))
        .set("message.timeout.ms", "0")
        .create_with_context(context)
        .unwrap();
    let record = BaseRecord::<(), str>::to(TOPIC).partition(0).payload("x");
    producer.send(record).map_err(|(error, _)| error).unwrap();
    let begun = Instant::now();
    while producer.context().delivered.lock().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        producer.poll(Duration::from_millis(20));
        producer.context().rebootstrap.serve(producer.client());
    }
    assert_eq!(*producer.context().delivered.lock().unwrap(), Some(true));
    assert_eq!(broker.phase(), Phase::Back);
}
