//! The WebSocket: hello, snapshot, then everything that changes, without a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{Sink, SinkExt, Stream, StreamExt};
use iot_fold::{Alert, Device};
use iot_service::server::Permit;
use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::State;
use crate::hub::clients::{FRAME_BYTES, Frame, Leave, Subscription};
use crate::hub::outbox::Frames;

/// Version of the protocol.
const PROTOCOL: u32 = 1;
/// Devices in one frame of a snapshot.
const SNAPSHOT_DEVICES: usize = 500;
/// Written to the socket beyond this many bytes, and never more buffered than
/// the second, which is many times the size of a frame.
const WRITE_BUFFER: usize = 16 << 10;
const MAX_WRITE_BUFFER: usize = 8 << 20;
/// Clients say nothing in version 1.
const MAX_MESSAGE: usize = 4 << 10;
/// A client answers pings; one that is silent this long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);
/// One frame takes no longer, or the client is too slow.
const SEND: Duration = Duration::from_secs(20);
/// For the last frame to a client that may read nothing.
const CLOSE: Duration = Duration::from_secs(5);
/// Close code of a client that can't keep up (4000-4999 are for applications,
/// RFC 6455, 7.4.2).
const TOO_SLOW: u16 = 4008;

pub(super) async fn upgrade(
    Extract(state): Extract<State>,
    Extension(permit): Extension<Permit>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !same_origin(&headers) {
        return (
            StatusCode::FORBIDDEN,
            "pages of other sites may not connect",
        )
            .into_response();
    }
    let Ok(subscription) = state.hub.subscribe().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the service is stopping").into_response();
    };
    let Some(subscription) = subscription else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many clients").into_response();
    };
    let id = subscription.id;
    let refused = state.hub.clone();
    upgrade
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_failed_upgrade(move |_| {
            tokio::spawn(async move { refused.unsubscribe(id).await });
        })
        .on_upgrade(move |socket| async move {
            let leave = attend(socket, subscription).await;
            state.metrics.left(leave);
            state.hub.unsubscribe(id).await;
            drop((state.open, permit));
        })
}

/// A browser always names the page's origin: it must be ours, or any page could
/// read along (cross-site WebSocket hijacking). Other clients name none.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// Serves one client until one side leaves.
async fn attend(socket: WebSocket, subscription: Subscription) -> Leave {
    let Subscription {
        devices,
        alerts,
        frames,
        dismissed,
        ..
    } = subscription;
    let (mut sink, stream) = socket.split();
    let heard = Heard::default();
    let leave = tokio::select! {
        leave = write(&mut sink, (&devices, &alerts), frames, &heard) => leave,
        () = read(stream, &heard) => Leave::Client,
        reason = dismissed => reason.unwrap_or(Leave::Shutdown),
    };
    let (code, reason) = match leave {
        Leave::Slow => (TOO_SLOW, "too slow"),
        Leave::Silent => (close_code::AWAY, "no answer"),
        Leave::Reset => (
            close_code::RESTART,
            "the state was begun again: connect again",
        ),
        Leave::Shutdown | Leave::Client => (close_code::AWAY, "stopping"),
    };
    let frame = CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    };
    // The client may be gone already, or read nothing: it is left either way.
    let _ = timeout(CLOSE, sink.send(Message::Close(Some(frame)))).await;
    leave
}

/// When something was heard last, in milliseconds since the client came.
struct Heard {
    since: Instant,
    at: Arc<AtomicU64>,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            at: Arc::default(),
        }
    }
}

impl Heard {
    fn now(&self) {
        self.at
            .store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let at = Duration::from_millis(self.at.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(at)
    }
}

/// Reads until the client leaves; what it says means nothing yet.
async fn read(mut stream: impl Stream<Item = Result<Message, axum::Error>> + Unpin, heard: &Heard) {
    while let Some(Ok(message)) = stream.next().await {
        heard.now();
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

async fn write(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    snapshot: (&[Arc<Device>], &[Alert]),
    mut frames: Frames,
    heard: &Heard,
) -> Leave {
    for text in greeting(snapshot.0, snapshot.1) {
        if let Err(leave) = send(sink, Message::Text(text)).await {
            return leave;
        }
    }
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            _ = ping.tick() => {
                if heard.silence() > SILENCE {
                    return Leave::Silent;
                }
                Message::Ping(Bytes::new())
            }
            frame = frames.recv() => match frame {
                Some(text) => Message::Text(text),
                // The hub has disconnected the client; `dismissed` has the reason.
                None => std::future::pending().await,
            },
        };
        if let Err(leave) = send(sink, message).await {
            return leave;
        }
    }
}

/// Hello and snapshot, made one frame at a time.
fn greeting<'g>(
    devices: &'g [Arc<Device>],
    alerts: &'g [Alert],
) -> impl Iterator<Item = Utf8Bytes> + 'g {
    let hello = Frame::Hello {
        protocol: PROTOCOL,
        service: "iot-consumer",
        version: env!("CARGO_PKG_VERSION"),
        server_time: Timestamp::now().as_millisecond(),
    };
    let mut rest = Some((devices, alerts));
    let pieces = std::iter::from_fn(move || {
        let (devices, alerts) = rest.take()?;
        let mut bytes = 0;
        let alerts = split(alerts, usize::MAX, &mut bytes, Alert::json_size);
        let device_size = |device: &Arc<Device>| device.json_size();
        let devices = split(devices, SNAPSHOT_DEVICES, &mut bytes, device_size);
        let last = devices.1.is_empty() && alerts.1.is_empty();
        rest = (!last).then_some((devices.1, alerts.1));
        let frame = Frame::Snapshot {
            devices: devices.0,
            alerts: alerts.0,
            last,
        };
        Some(frame.text())
    });
    std::iter::once(hello.text()).chain(pieces)
}

/// As many as still go into a frame of `bytes`, and the rest.
fn split<'a, T>(
    all: &'a [T],
    most: usize,
    bytes: &mut usize,
    size: impl Fn(&T) -> usize,
) -> (&'a [T], &'a [T]) {
    let fits = |one: &&T| {
        let fits = *bytes < FRAME_BYTES;
        *bytes += size(one);
        fits
    };
    let count = all.iter().take(most).take_while(fits).count();
    all.split_at(count)
}

async fn send(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    message: Message,
) -> Result<(), Leave> {
    match timeout(SEND, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Leave::Client),
        Err(_) => Err(Leave::Slow),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::hub::view::tests::{alert, device};
    use iot_fold::AlertStatus;

    fn headers(origin: Option<&str>, host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_page_may_connect() {
        assert!(same_origin(&headers(None, "localhost:8080")));
        assert!(same_origin(&headers(
            Some("http://localhost:8080"),
            "localhost:8080"
        )));
        assert!(same_origin(&headers(
            Some("https://IoT.example"),
            "iot.example"
        )));
        for other in ["http://evil.example", "http://localhost", "null", "file://"] {
            assert!(
                !same_origin(&headers(Some(other), "localhost:8080")),
                "{other}"
            );
        }
    }

    #[test]
    fn a_snapshot_comes_in_pieces() {
        let devices: Vec<_> = (0..1_001)
            .map(|n| Arc::new(device("t", &n.to_string(), 0, 0.0)))
            .collect();
        let alerts = [alert("a", 1, AlertStatus::Raised)];
        let frames: Vec<Value> = greeting(&devices, &alerts)
            .map(|text| serde_json::from_str(text.as_str()).unwrap())
            .collect();
        let sizes: Vec<_> = frames[1..]
            .iter()
            .map(|f| {
                let count = |name: &str| f[name].as_array().unwrap().len();
                (
                    count("devices"),
                    count("alerts"),
                    f["last"].as_bool().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            (&frames[0]["type"], &frames[0]["protocol"]),
            (&"hello".into(), &1.into())
        );
        assert_eq!(sizes, [(500, 1, false), (500, 0, false), (1, 0, true)]);
        let many: Vec<_> = (0..5_000)
            .map(|n| alert(&n.to_string(), n, AlertStatus::Raised))
            .collect();
        let (mut alerts_sent, mut devices_sent) = (0, 0);
        for text in greeting(&devices, &many).skip(1) {
            assert!(text.len() < FRAME_BYTES * 5 / 4, "{}", text.len());
            let frame: Value = serde_json::from_str(text.as_str()).unwrap();
            let count = |name: &str| frame[name].as_array().unwrap().len();
            alerts_sent += count("alerts");
            devices_sent += count("devices");
            assert_eq!(frame["last"], alerts_sent == 5_000 && devices_sent == 1_001);
        }
        assert_eq!((alerts_sent, devices_sent), (5_000, 1_001));
        assert_eq!(
            greeting(&[], &[]).count(),
            2,
            "an empty snapshot is one, too"
        );
    }
}
