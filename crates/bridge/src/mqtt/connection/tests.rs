//! A connection over a stream that arrives in pieces.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::yield_now;

use super::*;

pub(super) fn connection(protocol: Protocol) -> (BrokerConnection<DuplexStream>, DuplexStream) {
    let (own, other) = duplex(200);
    let config = MqttConfig {
        protocol,
        ..MqttConfig::default()
    };
    let connection = Connection {
        stream: own,
        reader: Reader::new(protocol),
        writer: Writer::new(protocol),
        session_present: false,
        granted: Granted::default(),
    };
    (BrokerConnection::new(connection, &config), other)
}

/// One step of a broker.
#[derive(Debug, Clone)]
enum Step {
    Publish(QoS, u16, Vec<u8>),
    Release(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)];
    let payload = vec(any::<u8>(), 0..300);
    prop_oneof![
        3 => (qos, 1..=u16::MAX, payload).prop_map(|(qos, id, payload)| Step::Publish(qos, id, payload)),
        1 => any::<u16>().prop_map(Step::Release),
    ]
}

impl Step {
    fn write(&self, protocol: Protocol, out: &mut Vec<u8>) {
        match self {
            Self::Publish(qos, id, payload) => {
                let properties = usize::from(protocol == Protocol::V5);
                let length = 2 + 3 + 2 + properties + payload.len();
                out.extend([
                    0x30 | (*qos as u8) << 1,
                    length as u8 | 0x80,
                    (length >> 7) as u8,
                ]);
                out.extend([0, 3]);
                out.extend(b"a/b");
                out.extend(id.to_be_bytes());
                out.extend(&[0][..properties]);
                out.extend(payload);
            }
            Self::Release(id) => {
                out.extend([0x62, 2]);
                out.extend(id.to_be_bytes());
            }
        }
    }
}

/// Polls once, as someone who waits for other things too.
async fn try_next<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut BrokerConnection<S>,
    may_read: bool,
) -> Option<Result<BrokerEvent, BrokerConnectionError>> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match connection.poll(cx, may_read) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        })
    })
    .await
}

proptest! {
    /// However the stream is cut, whenever waiting is given up and reading is
    /// not allowed: messages come in order, and every one is answered once, in
    /// order, as is every release.
    #[test]
    fn messages_in_any_pieces_are_answered_in_order(
        v5 in any::<bool>(),
        steps in vec(step(), 1..25),
        pieces in vec(1..250usize, 1..20),
        may_read in vec(prop::bool::weighted(0.7), 1..10),
    ) {
        let protocol = if v5 { Protocol::V5 } else { Protocol::V311 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (read, answers) = runtime.block_on(carry(protocol, &steps, &pieces, &may_read));
        let mut messages = Vec::new();
        let mut expected: Vec<[u8; 4]> = Vec::new();
        for step in steps {
            let (first, id) = match &step {
                Step::Publish(QoS::AtLeastOnce, id, _) => (0x40, *id),
                Step::Publish(_, id, _) => (0x50, *id),
                Step::Release(id) => (0x70, *id),
            };
            let [high, low] = id.to_be_bytes();
            expected.push([first, 2, high, low]);
            if let Step::Publish(qos, id, payload) = step {
                messages.push((qos, id, payload));
            }
        }
        prop_assert_eq!(read, messages);
        prop_assert_eq!(answers, expected.concat());
    }
}

type Message = (QoS, u16, Vec<u8>);

async fn carry(
    protocol: Protocol,
    steps: &[Step],
    pieces: &[usize],
    may_read: &[bool],
) -> (Vec<Message>, Vec<u8>) {
    let (mut connection, other) = connection(protocol);
    let mut stream = Vec::new();
    for step in steps {
        step.write(protocol, &mut stream);
    }
    let (mut from_bridge, mut to_bridge) = tokio::io::split(other);
    let pieces = pieces.to_vec();
    let sending = tokio::spawn(async move {
        let (mut rest, mut pieces) = (&stream[..], pieces.iter().cycle());
        while let Some(length) = pieces.next().filter(|_| !rest.is_empty()) {
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            to_bridge.write_all(piece).await.unwrap();
            rest = after;
            yield_now().await;
        }
        to_bridge
    });
    let wanted = 4 * steps.len();
    let receiving = tokio::spawn(async move {
        let mut answers = vec![0; wanted];
        from_bridge.read_exact(&mut answers).await.unwrap();
        answers
    });
    let (mut read, mut allowed) = (Vec::new(), may_read.iter().chain(&[true]).cycle());
    while !receiving.is_finished() {
        let may_read = allowed.next().is_some_and(|allowed| *allowed);
        if let Some(event) = try_next(&mut connection, may_read).await {
            match event.unwrap() {
                BrokerEvent::Publish(publish) => {
                    connection.acknowledge(publish.pkid, publish.qos);
                    read.push((publish.qos, publish.pkid, publish.payload.to_vec()));
                }
                BrokerEvent::Released(_) => {}
                other => panic!("neither a message nor a release: {other:?}"),
            }
        }
        yield_now().await;
    }
    drop(sending.await.unwrap());
    (read, receiving.await.unwrap())
}
