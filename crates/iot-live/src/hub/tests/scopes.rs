//! Clients with the same channels that may not see the same.

use iot_auth::Scope;

use super::*;
use crate::testing::only;

fn tenant(name: &str) -> Option<Arc<Scope>> {
    Some(Arc::new(Scope {
        tenants: only(&[name]),
        ..Scope::ALL
    }))
}

/// Devices of these tests have a floor and no building.
fn floor(name: &str) -> Option<Arc<Scope>> {
    Some(Arc::new(Scope {
        places: only(&[&format!("/{name}")]),
        ..Scope::ALL
    }))
}

fn client(name: &str, kind: Kind, scope: Option<Arc<Scope>>) -> Client {
    let filter = Filter {
        scope,
        ..Filter::default()
    };
    Client::new(channel(name, kind, filter))
}

fn devices(client: &Client) -> Vec<&str> {
    client.devices.keys().map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn what_clients_of_one_channel_get_depends_on_their_scopes() {
    let mut replica = Replica::new(settings()).await;
    let log = [sent(0, 20.0), sent(7, 20.0), sent(0, 21.0), sent(7, 21.0)];
    for (name, kind) in [
        ("readings", Kind::Readings),
        ("readings?mode=all", Kind::Readings),
        ("devices", Kind::Devices),
    ] {
        let scopes = [tenant("a"), tenant("b"), None];
        let mut clients = scopes.map(|scope| client(name, kind, scope));
        for client in &mut clients {
            client.connect(&replica.hub).await;
        }
        replica.read(&log, 2).await;
        settle().await;
        for (client, expected) in clients
            .iter_mut()
            .zip([&["d0"][..], &["d7"], &["d0", "d7"]])
        {
            client.take(&replica.hub).await;
            assert_eq!(devices(client), expected, "{name}");
        }
        // They missed the same number of changes, and not the same.
        for client in &clients {
            replica.hub.leave(client.id).await;
        }
        replica.read(&log, 4).await;
        for (client, expected) in clients
            .iter_mut()
            .zip([&["d0"][..], &["d7"], &["d0", "d7"]])
        {
            let before = client.devices.clone();
            client.connect(&replica.hub).await;
            assert!(client.was_recovered, "{name}");
            assert_eq!(devices(client), expected, "{name}");
            assert_ne!(client.devices, before, "{name}");
            replica.hub.leave(client.id).await;
        }
        replica = Replica::new(settings()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_position_of_another_scope_leads_to_a_snapshot() {
    let mut replica = Replica::new(settings()).await;
    replica.read(&[sent(0, 20.0), sent(7, 20.0)], 2).await;
    let scopes = [None, tenant("a"), tenant("b"), floor("1")];
    for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))) {
        let mut before = client("readings", Kind::Readings, scopes[from].clone());
        before.connect(&replica.hub).await;
        let mut after = client("readings", Kind::Readings, scopes[to].clone());
        after.position = before.position;
        after.connect(&replica.hub).await;
        assert_eq!(after.was_recovered, from == to, "{from} to {to}");
        replica.hub.leave(before.id).await;
        replica.hub.leave(after.id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn alerts_outside_of_a_scope_are_not_named_to_clients_that_were_away() {
    let mut replica = Replica::new(settings()).await;
    let on = |floor: u8, device: u8, value: f64| Sent {
        floor,
        ..sent(device, value)
    };
    let log = [
        on(1, 0, 180.0),
        on(1, 2, 180.0),
        // Never in the scope; and out of it.
        on(2, 4, 180.0),
        on(2, 4, 20.0),
        on(2, 2, 180.0),
    ];
    replica.read(&log, 2).await;
    let mut client = client("alerts", Kind::Alerts, floor("1"));
    client.connect(&replica.hub).await;
    let known: Vec<_> = client.alerts.keys().cloned().collect();
    assert_eq!(known.len(), 2);
    replica.hub.leave(client.id).await;
    replica.read(&log, log.len()).await;
    client.connect(&replica.hub).await;
    assert!(client.was_recovered);
    assert_eq!(client.alerts.len(), 1, "one has moved out");
    let unknown: Vec<_> = client
        .gone
        .iter()
        .filter(|id| !known.contains(id))
        .collect();
    assert_eq!((client.gone.len(), unknown.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_end_of_all_subscriptions_reaches_only_the_client() {
    let mut replica = Replica::new(settings()).await;
    let mut clients = [0, 1].map(|_| client("readings", Kind::Readings, tenant("a")));
    for client in &mut clients {
        client.connect(&replica.hub).await;
    }
    replica.hub.resubscribe(clients[0].id).await.unwrap();
    replica.read(&[sent(0, 20.0)], 1).await;
    settle().await;
    for client in &mut clients {
        client.take(&replica.hub).await;
    }
    assert_eq!(clients.each_ref().map(|client| client.resyncs), [1, 0]);
    assert_eq!(replica.clients().await, 2);
}

#[tokio::test(start_paused = true)]
async fn channels_of_a_scope_are_forgotten_with_their_last_client() {
    let mut replica = Replica::new(settings()).await;
    for kind in Kind::ALL {
        let mut client = client(kind.path(), kind, tenant("a"));
        client.connect(&replica.hub).await;
        replica.read(&[sent(0, 20.0)], 1).await;
        replica.hub.leave(client.id).await;
        assert_eq!(replica.clients().await, 0);
    }
}
