//! Connections, over memory that takes as little as a test wants.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::websocket::read::{Fault, Limits};
use crate::websocket::{Kind, Socket};

const LIMITS: Limits = Limits { message: 1 << 20 };

/// A server's socket, and the client's end of it, between which so many bytes fit.
fn pair(room: usize) -> (Socket<DuplexStream>, DuplexStream) {
    let (server, client) = duplex(room);
    (Socket::new(server, LIMITS), client)
}

/// The next bytes that the server sends.
async fn bytes(client: &mut DuplexStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn pings_are_answered_with_their_bytes() {
    let (mut socket, mut client) = pair(1_000);
    client.write_all(&whole(Opcode::Ping, b"1")).await.unwrap();
    client.write_all(&whole(Opcode::Text, b"a")).await.unwrap();
    assert_eq!(socket.next().await, Ok(Some(b"a".to_vec())));
    assert_eq!(bytes(&mut client, 3).await, b"\x8a\x011");
}

#[tokio::test]
async fn a_client_that_reads_no_answers_costs_one() {
    let (mut socket, mut client) = pair(20);
    let payload = [b'x'; 50];
    let flood = async {
        for number in 0..1_000_u16 {
            let mut payload = payload;
            payload[..2].copy_from_slice(&number.to_be_bytes());
            let ping = whole(Opcode::Ping, &payload);
            client.write_all(&ping).await.unwrap();
        }
        client.write_all(&whole(Opcode::Text, b"a")).await.unwrap();
        client
    };
    let (message, mut client) = tokio::join!(socket.next(), flood);
    assert_eq!(message, Ok(Some(b"a".to_vec())));
    // The first one was being written, and the last one waits.
    let read = async {
        let first = bytes(&mut client, 52).await;
        (first, bytes(&mut client, 52).await)
    };
    let ((first, last), flushed) = tokio::join!(read, socket.flush());
    flushed.unwrap();
    assert_eq!((first[2], first[3]), (0, 0));
    assert_eq!(last[2..4], 999_u16.to_be_bytes());
}

#[tokio::test]
async fn the_end_is_answered_and_nothing_follows() {
    for (payload, answer) in [
        (&b""[..], &b"\x88\x00"[..]),
        (b"\x03\xe8", b"\x88\x02\x03\xe8"),
        (b"\x0f\xa0bye", b"\x88\x02\x0f\xa0"),
    ] {
        let (mut socket, mut client) = pair(1_000);
        let close = whole(Opcode::Close, payload);
        client.write_all(&close).await.unwrap();
        client.write_all(&whole(Opcode::Ping, b"")).await.unwrap();
        assert_eq!(socket.next().await, Ok(None));
        assert!(socket.send(Kind::Text, "late".into()).await.is_err());
        socket.close(3001, "late").await.unwrap();
        drop(socket);
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, answer);
    }
}

#[tokio::test]
async fn after_the_servers_end_only_the_clients_is_of_interest() {
    let (mut socket, mut client) = pair(1_000);
    socket.close(3008, "slow").await.unwrap();
    socket.close(3001, "once").await.unwrap();
    assert_eq!(bytes(&mut client, 8).await, b"\x88\x06\x0b\xc0slow");
    for frame in [
        whole(Opcode::Ping, b"1"),
        whole(Opcode::Text, b"a"),
        whole(Opcode::Close, b"\x0b\xc0"),
    ] {
        client.write_all(&frame).await.unwrap();
    }
    assert_eq!(socket.next().await, Ok(Some(b"a".to_vec())));
    assert_eq!(socket.next().await, Ok(None));
    drop(socket);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn a_lost_connection_is_a_fault() {
    for sent in [
        Vec::new(),
        whole(Opcode::Text, b"Hello")[..7].to_vec(),
        part(Opcode::Text, b"Hello"),
    ] {
        let (mut socket, mut client) = pair(1_000);
        client.write_all(&sent).await.unwrap();
        drop(client);
        assert_eq!(socket.next().await, Err(Fault::Lost));
        assert!(socket.send(Kind::Text, "a".into()).await.is_err());
    }
}

#[tokio::test]
async fn what_follows_a_fault_can_be_drained() {
    let (mut socket, mut client) = pair(100);
    let send = async {
        client.write_all(&frame(0xff, b"")).await.unwrap();
        client.write_all(&[0xff; 10_000]).await.unwrap();
        drop(client);
    };
    let read = async {
        assert!(matches!(socket.next().await, Err(Fault::Protocol(_))));
        socket.drain().await.unwrap();
    };
    tokio::join!(send, read);
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_cancelled_message_precedes_the_next() {
    let (mut socket, mut client) = pair(10);
    let long = Bytes::from(vec![b'x'; 100]);
    let cut = timeout(Duration::from_secs(1), socket.send(Kind::Text, long)).await;
    assert!(cut.is_err());
    let close = socket.close(3008, "slow");
    let (closed, sent) = tokio::join!(close, bytes(&mut client, 110));
    closed.unwrap();
    assert_eq!(
        (&sent[..2], &sent[102..]),
        (&b"\x81d"[..], &b"\x88\x06\x0b\xc0slow"[..])
    );
    assert_eq!(&sent[2..102], [b'x'; 100]);
}

#[tokio::test]
async fn an_idle_connection_keeps_no_buffer() {
    let (mut socket, mut client) = pair(10_000);
    client
        .write_all(&whole(Opcode::Text, &[b'a'; 3_000]))
        .await
        .unwrap();
    assert_eq!(
        socket.next().await.unwrap().map(|all| all.len()),
        Some(3_000)
    );
    let page = Bytes::from(vec![b'x'; 4_000]);
    socket.send(Kind::Text, page.clone()).await.unwrap();
    bytes(&mut client, 4_004).await;
    assert!(socket.next().now_or_never().is_none());
    assert!(page.is_unique(), "the message is forgotten");
    assert_eq!(socket.kept(), 0);
}

async fn client(stream: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

#[tokio::test]
async fn another_implementation_understands_every_length() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
        let (mut socket, stream) = pair(1_000);
        let mut client = client(stream).await;
        let text = "x".repeat(length);
        let server = async {
            let got = socket.next().await.unwrap().unwrap();
            socket.send(Kind::Text, got.clone().into()).await.unwrap();
            socket.send(Kind::Binary, got.into()).await.unwrap();
            socket.close(3001, "shutdown").await.unwrap();
            assert_eq!(socket.next().await, Ok(None));
        };
        let client = async {
            client.send(Message::text(text.clone())).await.unwrap();
            let mut next = async || client.next().await.unwrap().unwrap();
            assert_eq!(next().await, Message::text(text.clone()));
            assert_eq!(next().await, Message::binary(text.clone()));
            let Message::Close(Some(close)) = next().await else {
                panic!("not the end")
            };
            assert_eq!((u16::from(close.code), &*close.reason), (3001, "shutdown"));
            // Its answer.
            client.flush().await.ok();
        };
        tokio::join!(server, client);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_pass_both_ways_however_little_fits(
        room in 1_usize..300,
        messages in prop::collection::vec((any::<bool>(), ".{0,200}"), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut socket, stream) = pair(room);
            let mut client = client(stream).await;
            // The server sends each message back.
            let server = async {
                while let Some(message) = socket.next().await.unwrap() {
                    socket.send(Kind::Text, message.into()).await.unwrap();
                }
                socket.flush().await.unwrap();
                // The client waits for this.
                drop(socket);
            };
            let client = async {
                for (pings, text) in &messages {
                    if *pings {
                        client.send(Message::Ping("?".into())).await.unwrap();
                    }
                    client.send(Message::text(text.clone())).await.unwrap();
                    let mut answer = client.next().await.unwrap().unwrap();
                    if *pings {
                        assert_eq!(answer, Message::Pong("?".into()));
                        answer = client.next().await.unwrap().unwrap();
                    }
                    assert_eq!(answer, Message::text(text.clone()));
                }
                client.close(None).await.unwrap();
                while client.next().await.is_some() {}
            };
            tokio::join!(server, client);
        });
    }
}
