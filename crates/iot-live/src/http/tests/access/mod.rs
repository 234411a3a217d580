//! Every route and every frame, with the identities of two tenants: whatever a client asks for,
//! no byte of the answers is about a device that it may not see.

mod frames;
mod rest;
mod tokens;

use std::collections::HashMap;

use iot_auth::{AuthConfig, AuthMetrics, Mode, NewToken, Role};
use iot_core::message::{DeviceMessage, Location, Quality, Reading};
use iot_core::partition::TopicPartition;
use iot_fold::{Event, Fold, Folded, Windows};
use jiff::Timestamp;
use prometheus::IntGauge;
use tokio::net::TcpListener;
use tokio::time::{Duration, Instant};

use super::*;
use crate::hub::{Counts, Feed, HubMetrics, Mark, Marks, Opening, Question, Times};
use crate::testing::rules;

/// Tenant, project, device, building and a sensor besides the temperature. Each of another tenant
/// or place has a word of its own.
const DEVICES: [[&str; 5]; 3] = [
    ["apple", "apple-office", "device-north", "north", "co2"],
    [
        "apple",
        "apple-office",
        "device-mango",
        "mango",
        "mango-co2",
    ],
    [
        "zebra",
        "zebra-office",
        "device-zebra",
        "zebra-house",
        "zebra-co2",
    ],
];
/// Moves between `north` and `mango`.
const ROAMER: &str = "device-roamer";
/// A name that nothing has.
const NOTHING: &str = "quagga";

/// The names in each field, and one that nothing has.
fn names(field: usize) -> Vec<&'static str> {
    let mut names: Vec<_> = DEVICES.iter().map(|device| device[field]).collect();
    names.dedup();
    names.push(NOTHING);
    names
}

/// Bearers with their tenants, projects and places.
const BEARERS: [(&str, [&[&str]; 3]); 8] = [
    ("all", [&["*"], &["*"], &["*"]]),
    ("apple", [&["apple"], &["*"], &["*"]]),
    ("zebra", [&["*"], &["zebra-office"], &["*"]]),
    ("north", [&["apple"], &["*"], &["north"]]),
    ("house", [&["*"], &["*"], &["zebra-house"]]),
    ("nobody", [&["nobody"], &["*"], &["*"]]),
    ("expired", [&["*"], &["*"], &["*"]]),
    ("short", [&["apple"], &["*"], &["*"]]),
];
/// Those who have an identity and may not see everything.
const RESTRICTED: [&str; 5] = ["apple", "zebra", "north", "house", "nobody"];

/// Words that are in nothing that a bearer may see.
fn hidden(bearer: &str) -> &'static [&'static str] {
    match bearer {
        "apple" | "short" | "ann" => &["zebra"],
        "zebra" => &["apple", "mango", "north", "roamer"],
        "house" => &["apple", "mango", "north", "roamer"],
        "north" => &["zebra", "mango"],
        "all" => &[],
        _ => &["zebra", "apple", "mango", "north", "roamer"],
    }
}

/// Checks everything that a bearer has received.
fn check(bearer: &str, asked: &str, received: &str) {
    for word in hidden(bearer) {
        assert!(
            !received.contains(word),
            "{bearer} asked for {asked} and got {word}: {received}"
        );
    }
}

/// A service that shows two partitions, of one tenant each.
struct World {
    address: SocketAddr,
    hub: Hub,
    logs: Vec<Log>,
    tokens: HashMap<&'static str, String>,
    /// Seconds of log time.
    clock: i64,
    stop: CancellationToken,
    directory: tempfile::TempDir,
}

struct Log {
    fold: Fold,
    feed: Option<Feed>,
    marks: Arc<Marks>,
    next: i64,
}

impl World {
    async fn start() -> Self {
        let (stop, registry) = (CancellationToken::new(), Registry::new());
        let queue = IntGauge::new("queue", "Queue").unwrap();
        let metrics = HubMetrics::new(&Registrar(&registry), queue).unwrap();
        let settings = crate::hub::Settings {
            epoch: "k3".into(),
            interval: Duration::from_millis(200),
            gather: Duration::from_millis(10),
            history: 1 << 20,
            skew: Duration::from_millis(2),
            queue: 1 << 20,
            alerts: 1_000,
        };
        let (hub, _) = Hub::start(settings, Counts::default, metrics, stop.clone());
        let directory = tempfile::tempdir().unwrap();
        let tokens = issue(&directory, "apple");
        let config = AuthConfig {
            mode: Mode::TokensFile,
            tokens_file: tokens_path(&directory),
            ..AuthConfig::default()
        };
        let metrics = AuthMetrics::new(&Registrar(&registry)).unwrap();
        let auth = Authenticator::start(&config, metrics, &stop).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = Settings {
            clients: Arc::new(|| 100),
            queue: Arc::new(|| 1 << 20),
            window_sizes: vec![HumanDuration::from_secs(60)],
            epoch: "k3".into(),
            auth,
        };
        let metrics = HttpMetrics::new(&Registrar(&registry)).unwrap();
        serve(listener, hub.clone(), metrics, settings, stop.clone());
        let mut world = Self {
            address,
            hub,
            logs: Vec::new(),
            tokens,
            clock: 1_000,
            stop,
            directory,
        };
        for tenant in ["apple", "zebra"] {
            world.open(tenant).await;
        }
        // A position can be continued if there was a fetch before it.
        world.change(180.0, "north").await;
        world.change(180.0, "north").await;
        // Part of what is shown, with a text that names it.
        let partition = Arc::new(partition("zebra"));
        let reason = Some("the zebra is being read".to_owned());
        world.hub.partial(partition, reason).await;
        world
    }

    async fn open(&mut self, tenant: &str) {
        let partition = partition(tenant);
        let fold = Fold::new(rules(), &partition.topic, 0);
        let (questions, asked) = mpsc::channel(1);
        tokio::spawn(answer(asked));
        let marks: Arc<Marks> = Arc::default();
        let opening = Opening {
            partition: Arc::new(partition),
            all: fold.all(),
            reached: 0,
            marks: marks.clone(),
            questions,
        };
        let feed = Some(self.hub.open(opening).await);
        self.logs.push(Log {
            fold,
            feed,
            marks,
            next: 0,
        });
    }

    /// A message of each device, and of one that moves to `building`.
    async fn change(&mut self, temperature: f64, building: &str) {
        let roamer = ["apple", "apple-office", ROAMER, building, "co2"];
        for device in DEVICES.into_iter().chain([roamer]) {
            self.clock += 1;
            let log = &mut self.logs[usize::from(device[0] == "zebra")];
            let message = message(device, temperature, self.clock * 1_000);
            let event = Event {
                offset: log.next,
                recorded: Some(self.clock * 1_000),
                tenant: device[0],
                project: device[1],
                message: &message,
                is_undated: false,
                unmatched: &[],
            };
            log.fold.apply(&event, &mut Folded::default()).unwrap();
            log.next += 1;
        }
        let (sent, arrived) = (self.clock * 1_000_000, self.clock * 1_000_000);
        for log in &mut self.logs {
            let end = log.next;
            log.marks.add(Mark { sent, arrived, end });
            let times = Times {
                recorded: None,
                arrived: Instant::now(),
            };
            let updates = log.fold.take_updates();
            if let Some(feed) = &log.feed {
                feed.update(updates, log.next, times).await;
            }
        }
    }

    /// Gives everybody another token, and Ann one for what another bearer may see.
    async fn reissue(&mut self, ann: &str) {
        self.tokens = issue(&self.directory, ann);
        // The file is polled.
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn bearer(&self, bearer: &str) -> String {
        format!("Bearer {}", self.tokens[bearer])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn partition(tenant: &str) -> TopicPartition {
    TopicPartition::new(format!("{tenant}-log"), 0)
}

fn message<'a>(device: [&'a str; 5], temperature: f64, timestamp: i64) -> DeviceMessage<'a> {
    let [.., id, building, sensor] = device;
    let reading = |sensor: &'a str, value| Reading {
        sensor: sensor.into(),
        value,
        unit: None,
        quality: Quality::Good,
    };
    DeviceMessage {
        device_id: id.into(),
        tenant: None,
        project: None,
        seq: None,
        timestamp,
        location: Some(Location {
            building: building.into(),
            floor: "1".into(),
            ..Location::default()
        }),
        readings: vec![reading("temperature", temperature), reading(sensor, 1.0)],
    }
}

/// Answers questions for windows, with none.
async fn answer(mut asked: mpsc::Receiver<Question>) {
    while let Some(question) = asked.recv().await {
        let _ = question.answer.send(Ok(Some(Windows::new())));
    }
}

fn tokens_path(directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("tokens.yaml");
    path.to_str().unwrap().to_owned()
}

/// Writes a file with a token for each bearer and for Ann, who may see what another bearer may.
/// Returns them by their bearers.
fn issue(directory: &tempfile::TempDir, ann: &str) -> HashMap<&'static str, String> {
    let (mut text, mut tokens) = ("tokens:\n".to_owned(), HashMap::new());
    let [mut of_ann] = BEARERS
        .iter()
        .filter(|(bearer, _)| *bearer == ann)
        .copied()
        .collect::<Vec<_>>()[..]
    else {
        panic!("nobody is {ann}")
    };
    of_ann.0 = "ann";
    for (bearer, of) in BEARERS.into_iter().chain([of_ann]) {
        let expires = match bearer {
            "expired" => Some(Timestamp::UNIX_EPOCH),
            "short" => Some(Timestamp::now() + Duration::from_secs(60)),
            _ if ann == "short" && bearer == "ann" => {
                Some(Timestamp::now() + Duration::from_secs(60))
            }
            _ => None,
        };
        let of = of.map(|names| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        });
        let of = [&of[0][..], &of[1], &of[2]];
        let token = NewToken::new(bearer, Role::Viewer, of, expires).unwrap();
        text.push_str(&format!("{token}\n"));
        tokens.insert(bearer, token.token.expose().to_owned());
    }
    std::fs::write(tokens_path(directory), text).unwrap();
    tokens
}
