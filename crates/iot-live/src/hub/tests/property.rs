//! Whatever happens, a client ends with what a new one sees.

use iot_auth::{Names, Scope};
use proptest::prelude::*;

use super::*;
use crate::testing::only;

/// What a client does after a batch.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read,
    /// Reads nothing for a while.
    Wait,
    /// Connects to the other replica, which has read so many messages more or less.
    Move(usize),
}

fn log() -> impl Strategy<Value = Vec<Sent>> {
    let after = prop_oneof![20 => 1..3_i64, 1 => 100..500_i64];
    let sensor = prop_oneof![3 => Just("temperature"), 1 => Just("humidity")];
    let message = (0..8_u8, 1..3_u8, sensor, 20..70_u8, after);
    let message = message.prop_map(|(device, floor, sensor, value, after)| Sent {
        device,
        floor,
        sensor,
        value: f64::from(value),
        after,
    });
    prop::collection::vec(message, 1..120)
}

fn channels() -> impl Strategy<Value = Channel> {
    let field = |value: &'static str| prop::option::of(Just(Arc::from(value)));
    let filter = (field("a"), field("1"), field("temperature"));
    // Of the client's own wish, and of what it may see.
    let filter = (filter, scopes()).prop_map(|((tenant, floor, sensor), scope)| Filter {
        tenant,
        floor,
        sensor,
        scope,
        ..Filter::default()
    });
    let names = vec!["readings", "readings?mode=all", "devices", "alerts"];
    (prop::sample::select(names), filter, any::<bool>()).prop_map(
        |(name, mut filter, is_raised)| {
            let kind = match name {
                "devices" => Kind::Devices,
                "alerts" => Kind::Alerts,
                _ => Kind::Readings,
            };
            if kind == Kind::Devices {
                filter.sensor = None;
            }
            if kind == Kind::Alerts && is_raised {
                filter.state = Some(iot_fold::AlertStatus::Raised);
            }
            channel(name, kind, filter)
        },
    )
}

fn scopes() -> impl Strategy<Value = Option<Arc<Scope>>> {
    let names = |name: &'static str| prop_oneof![Just(Names::All), Just(only(&[name]))];
    // Devices of these tests have a floor and no building.
    let scope = (names("a"), names("/1")).prop_map(|(tenants, places)| Scope {
        tenants,
        projects: Names::All,
        places,
    });
    prop::option::of(scope.prop_map(Arc::new))
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        4 => Just(Step::Read),
        2 => Just(Step::Wait),
        2 => (0..20_usize).prop_map(Step::Move),
    ];
    prop::collection::vec((1..20_usize, step), 1..20)
}

async fn run(log: Vec<Sent>, channel: Channel, steps: Vec<(usize, Step)>) {
    let mut replicas = [
        Replica::new(settings()).await,
        Replica::new(settings()).await,
    ];
    let (mut at, mut read) = (0, 0);
    let mut client = Client::new(channel);
    client.connect(&replicas[at].hub).await;
    for (more, step) in steps {
        read = log.len().min(read + more);
        replicas[at].read(&log, read).await;
        match step {
            Step::Wait => {}
            Step::Read => {
                sleep(Duration::from_millis(50)).await;
                client.take(&replicas[at].hub).await;
            }
            Step::Move(behind) => {
                sleep(Duration::from_millis(50)).await;
                client.take(&replicas[at].hub).await;
                at = 1 - at;
                // It may have read less; then its clock is not behind either.
                let to = read.saturating_sub(behind).max(replicas[at].read);
                replicas[at].read(&log, to).await;
                client.connect(&replicas[at].hub).await;
            }
        }
    }
    for replica in &mut replicas {
        replica.read(&log, log.len()).await;
    }
    // It knows only what the state has, and no message.
    let mut late = Replica::new(settings()).await;
    late.feeds = vec![None, None];
    late.read(&log, log.len()).await;
    for number in 0..PARTITIONS {
        late.feeds[number] = Some(late.open(number).await);
    }
    settle().await;
    client.take(&replicas[at].hub).await;
    for replica in replicas.iter().chain([&late]) {
        let expected = client.expected(&replica.hub).await;
        // Messages without the sensor of a channel are none of its changes.
        let devices = |client: &Client| {
            let mut devices = client.devices.clone();
            for device in devices
                .values_mut()
                .filter(|_| client.channel.filter.sensor.is_some())
            {
                *device = device["readings"].take();
            }
            devices
        };
        assert_eq!(devices(&client), devices(&expected));
        // What repeats an alert is sent once a second only.
        let known = |client: &Client| {
            let alerts = client.alerts.iter();
            let alerts = alerts.map(|(id, alert)| (id.clone(), alert["state"].clone()));
            alerts.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(known(&client), known(&expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_client_ends_with_what_a_new_one_sees(
        log in log(), channel in channels(), steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(log, channel, steps));
    }
}
