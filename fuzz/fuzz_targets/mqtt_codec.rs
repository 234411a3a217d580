//! Packets of a broker are the same however its bytes are split into reads.
#![no_main]

use std::task::{Context, Waker};

use iot_mqtt::{Packet, Protocol, Reader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, u16, &[u8])| {
    let (is_v5, split, bytes) = input;
    let protocol = if is_v5 { Protocol::V5 } else { Protocol::V311 };
    let (first, second) = bytes.split_at(usize::from(split).min(bytes.len()));
    assert_eq!(read(protocol, &[bytes]), read(protocol, &[first, second]));
});

/// The packets in `pieces`, and the error that ends them.
fn read(protocol: Protocol, pieces: &[&[u8]]) -> (Vec<Packet>, Option<String>) {
    let mut reader = Reader::new(protocol);
    let mut context = Context::from_waker(Waker::noop());
    let mut packets = Vec::new();
    for mut piece in pieces.iter().copied() {
        while !piece.is_empty() {
            assert!(reader.poll_fill(&mut context, &mut piece).is_ready());
            loop {
                match reader.packet() {
                    Ok(Some(packet)) => packets.push(packet),
                    Ok(None) => break,
                    Err(error) => return (packets, Some(error.to_string())),
                }
            }
        }
    }
    (packets, None)
}
