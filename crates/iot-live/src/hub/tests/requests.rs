//! Requests, and the updates that go before them.

use super::*;

#[tokio::test(start_paused = true)]
async fn updates_go_before_requests_that_wait() {
    let mut replica = Replica::new(settings()).await;
    let log: Vec<_> = (0..4).map(|n| sent(n, 20.0)).collect();
    let mut asked: Vec<_> = (0..100)
        .map(|_| {
            let hub = replica.hub.clone();
            Box::pin(async move { hub.devices(Page::default()).await.unwrap().total })
        })
        .collect();
    // Each is sent, and waits for its answer: the hub has not run since.
    for ask in &mut asked {
        assert!(poll(ask.as_mut()).is_pending());
    }
    replica.read(&log, 4).await;
    for ask in asked {
        assert_eq!(ask.await, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn abandoned_requests_are_not_answered() {
    let replica = Replica::new(settings()).await;
    let (gone, frames) = outbox(1_000);
    let subscribe = Subscribe {
        client: ClientId(0),
        channel: channel("readings", Kind::Readings, Filter::default()),
        framing: Framing::Json,
        outbox: gone,
        since: None,
    };
    let hub = replica.hub.clone();
    let mut ask = Box::pin(async move { hub.subscribe(subscribe).await });
    assert!(poll(ask.as_mut()).is_pending());
    drop((ask, frames));
    assert_eq!(replica.clients().await, 0);
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn pages_have_the_devices_of_a_tenant_project_and_id() {
    let mut replica = Replica::new(settings()).await;
    let log: Vec<_> = (0..8).map(|n| sent(n, 20.0)).collect();
    replica.read(&log, 8).await;
    let text = |value: &'static str| Some(Arc::from(value));
    let cases: [(Filter, &[&str]); 5] = [
        (
            Filter {
                tenant: text("a"),
                ..Filter::default()
            },
            &["d0", "d1", "d2", "d3"],
        ),
        (
            Filter {
                tenant: text("b"),
                project: text("p"),
                device: text("d5"),
                ..Filter::default()
            },
            &["d5"],
        ),
        (
            Filter {
                device: text("d6"),
                ..Filter::default()
            },
            &["d6"],
        ),
        (
            Filter {
                tenant: text("a"),
                project: text("o"),
                ..Filter::default()
            },
            &[],
        ),
        (
            Filter {
                tenant: text("b"),
                floor: text("2"),
                ..Filter::default()
            },
            &[],
        ),
    ];
    for (filter, expected) in cases {
        let page = Page {
            filter: filter.clone(),
            limit: 10,
            offset: 0,
        };
        let page = replica.hub.devices(page).await.unwrap();
        let ids: Vec<_> = page.devices.iter().map(|one| &*one.key.device).collect();
        assert_eq!((&ids[..], page.total), (expected, expected.len()));
        let mut client = Client::new(channel("devices", Kind::Devices, filter));
        client.connect(&replica.hub).await;
        assert_eq!(client.devices.keys().collect::<Vec<_>>(), expected);
        replica.hub.leave(client.id).await;
    }
}
