use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const BROKER: &str = "mqtt://broker:1883";
/// As many as a broker may have sent without an acknowledgement.
const WINDOW: u16 = 2_000;

/// Which message a delivery is, as only the test knows.
type Truth = u64;

/// A broker that counts identifiers up, a bridge, and Kafka.
struct World {
    next_id: u16,
    next_truth: Truth,
    unacknowledged: VecDeque<(u16, Truth)>,
    deliveries: Deliveries,
    first_seq: Seq,
    ring: VecDeque<Slot>,
    /// Everything that was ever in a ring of this process.
    pushed: Vec<Truth>,
    log: HashMap<(u64, u64), (Fingerprint, Truth)>,
    written: HashMap<Truth, usize>,
    checkpoint: Option<Checkpoint>,
}

struct Slot {
    truth: Option<(Truth, Option<Fingerprint>)>,
    checkpoint: Option<Checkpoint>,
    confirmed: bool,
}

impl World {
    fn new(next_id: u16) -> Self {
        let mut deliveries = Deliveries::new(None, WINDOW);
        deliveries.connected(BROKER, false);
        let mut world = Self {
            next_id,
            next_truth: 0,
            unacknowledged: VecDeque::new(),
            deliveries,
            first_seq: 0,
            ring: VecDeque::new(),
            pushed: Vec::new(),
            log: HashMap::new(),
            written: HashMap::new(),
            checkpoint: None,
        };
        // Until it has shown that it counts up.
        world.flow(usize::from(WINDOW) + 1_000);
        world
    }

    /// The broker sends new messages, as many as its window has room for.
    fn publish(&mut self, count: usize) {
        for _ in 0..count.min(usize::from(WINDOW) - self.unacknowledged.len()) {
            let (id, truth) = (self.next_id, self.next_truth);
            self.next_id = following(id);
            self.next_truth += 1;
            self.unacknowledged.push_back((id, truth));
            self.receive(id, false, truth);
        }
    }

    /// All messages look the same: only their numbers tell them apart.
    fn receive(&mut self, id: u16, dup: bool, truth: Truth) {
        let receipt = self.deliveries.receive(id, dup, 7, self.first_seq);
        if let Known::Pushed(seq) = receipt.known {
            assert_eq!(self.pushed[seq as usize], truth, "taken for another one");
            return;
        }
        if receipt.checkpoint {
            let checkpoint = Some(self.deliveries.checkpoint(id));
            self.push(Slot {
                truth: None,
                checkpoint,
                confirmed: false,
            });
        }
        let asked = receipt
            .fingerprint
            .filter(|_| receipt.known == Known::AskLog);
        let found = asked.and_then(|print| self.log.get(&(print.session, print.number)));
        if let Some((print, there)) = found {
            assert_eq!(print.hash, 7);
            assert_eq!(*there, truth, "taken for another one of the log");
        }
        let seq = self.push(Slot {
            truth: Some((truth, receipt.fingerprint)),
            checkpoint: None,
            confirmed: found.is_some(),
        });
        if receipt.fingerprint.is_some() {
            self.deliveries.pushed(7, seq);
        }
    }

    fn push(&mut self, slot: Slot) -> Seq {
        self.pushed
            .push(slot.truth.as_ref().map_or(u64::MAX, |(truth, _)| *truth));
        self.ring.push_back(slot);
        self.first_seq + self.ring.len() as Seq - 1
    }

    /// Kafka takes every `step`th of what it has not yet.
    fn confirm(&mut self, step: usize) {
        let waiting = self.ring.iter_mut().filter(|slot| !slot.confirmed);
        for slot in waiting.step_by(step) {
            slot.confirmed = true;
            if let Some(checkpoint) = slot.checkpoint.take() {
                self.checkpoint = Some(checkpoint);
            }
            if let Some((truth, print)) = slot.truth {
                *self.written.entry(truth).or_default() += 1;
                if let Some(print) = print {
                    self.log
                        .insert((print.session, print.number), (print, truth));
                }
            }
        }
    }

    /// The bridge acknowledges; what is `lost` of it never reaches the broker.
    fn acknowledge(&mut self, lost: bool) {
        while self.ring.front().is_some_and(|slot| slot.confirmed) {
            let Some(slot) = self.ring.pop_front() else {
                return;
            };
            self.first_seq += 1;
            if let (Some((truth, _)), false) = (slot.truth, lost)
                && self
                    .unacknowledged
                    .front()
                    .is_some_and(|(_, first)| *first == truth)
            {
                self.unacknowledged.pop_front();
            }
        }
    }

    fn reconnect(&mut self) {
        self.deliveries.connected(BROKER, true);
        for (id, truth) in self.unacknowledged.clone() {
            self.receive(id, true, truth);
        }
    }

    fn crash(&mut self) {
        self.ring.clear();
        self.pushed.clear();
        self.first_seq = 0;
        self.deliveries = Deliveries::new(self.checkpoint.clone(), WINDOW);
        self.reconnect();
    }

    /// Everything flows, for more than a round of identifiers if need be.
    fn flow(&mut self, messages: usize) {
        for _ in 0..messages.div_ceil(1_000) {
            self.publish(1_000);
            self.confirm(1);
            self.acknowledge(false);
        }
    }

    /// The broker starts its identifiers anew, and the bridge lives on until
    /// Kafka has a record of that.
    fn forget_identifiers(&mut self, next_id: u16) {
        self.confirm(1);
        self.acknowledge(false);
        self.next_id = next_id;
        self.flow(1);
    }

    fn end(&mut self) {
        // What was lost of the acknowledgements comes again.
        self.reconnect();
        self.confirm(1);
        self.acknowledge(false);
        for truth in 0..self.next_truth {
            assert!(self.written.contains_key(&truth), "message {truth} is lost");
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Publish(usize),
    Confirm(usize),
    Acknowledge { lost: bool },
    Reconnect,
    Crash,
    Flow(usize),
    ForgetIdentifiers(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..400usize).prop_map(Event::Publish),
        4 => (1..5usize).prop_map(Event::Confirm),
        3 => Just(Event::Acknowledge { lost: false }),
        1 => Just(Event::Acknowledge { lost: true }),
        2 => Just(Event::Reconnect),
        2 => Just(Event::Crash),
        1 => (1_000..70_000usize).prop_map(Event::Flow),
        // Rounds that end where they began, so that identifiers meet again.
        1 => Just(Event::Flow(65_000)),
    ]
}

fn run(world: &mut World, events: Vec<Event>) {
    for event in events {
        match event {
            Event::Publish(count) => world.publish(count),
            Event::Confirm(step) => world.confirm(step),
            Event::Acknowledge { lost } => world.acknowledge(lost),
            Event::Reconnect => world.reconnect(),
            Event::Crash => world.crash(),
            Event::Flow(messages) => world.flow(messages),
            Event::ForgetIdentifiers(next_id) => world.forget_identifiers(next_id),
        }
    }
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Of messages that are all alike, none is taken for another one, whatever
    /// is confirmed, acknowledged, lost, cut or killed: nothing is lost. And
    /// with a broker that counts up nothing is written twice.
    #[test]
    fn what_comes_again_is_recognised_and_nothing_else(
        first_id in 1..=u16::MAX,
        events in prop::collection::vec(event(), 1..25),
    ) {
        let mut world = World::new(first_id);
        run(&mut world, events);
        let twice = world.written.values().filter(|times| **times > 1).count();
        prop_assert_eq!(twice, 0);
    }

    /// A broker that starts its identifiers anew costs duplicates at most.
    #[test]
    fn identifiers_that_start_anew_lose_nothing(
        events in prop::collection::vec(
            prop_oneof![8 => event(), 1 => (1..=u16::MAX).prop_map(Event::ForgetIdentifiers)],
            1..25,
        ),
    ) {
        run(&mut World::new(1), events);
    }

    #[test]
    fn a_fingerprint_is_read_as_it_was_written(session: u64, number: u64, packet_id: u16, hash: u128) {
        let print = Fingerprint { session, number, packet_id, hash };
        prop_assert_eq!(Fingerprint::from_bytes(&print.to_bytes()), Some(print));
    }
}

#[test]
fn topic_and_payload_are_kept_apart() {
    assert_ne!(hash(b"ab", b"c"), hash(b"a", b"bc"));
}

#[test]
fn another_session_or_broker_starts_over() {
    let mut deliveries = Deliveries::new(None, WINDOW);
    deliveries.connected(BROKER, false);
    let first = deliveries.session();
    assert!(
        deliveries.receive(5, false, 1, 0).checkpoint,
        "a checkpoint before the first"
    );
    deliveries.pushed(1, 0);
    deliveries.connected("mqtt://backup:1883", true);
    assert_eq!(deliveries.receive(5, true, 1, 0).known, Known::No);
    assert_ne!(deliveries.session(), first);
    let second = deliveries.session();
    deliveries.connected("mqtt://backup:1883", false);
    assert_ne!(deliveries.session(), second);
}

#[test]
fn identifiers_that_never_count_up_are_given_up_on() {
    let mut deliveries = Deliveries::new(None, WINDOW);
    deliveries.connected(BROKER, false);
    let mut checkpoints = 0;
    for id in [9, 3, 7, 1, 8, 2, 6, 4] {
        let receipt = deliveries.receive(id, false, 1, 0);
        checkpoints += usize::from(receipt.checkpoint);
    }
    assert_eq!(deliveries.session(), 0);
    assert_eq!(deliveries.receive(5, false, 1, 0).fingerprint, None);
    // One for each numbering, and one that says that there is none any more.
    assert_eq!(checkpoints, 5);
}

/// A broker that takes the lowest identifier that is free.
#[test]
fn an_identifier_that_is_free_again_may_be_another_message() {
    let mut deliveries = Deliveries::new(None, WINDOW);
    deliveries.connected(BROKER, false);
    deliveries.receive(1, false, 7, 0);
    deliveries.pushed(7, 1);
    // Written and acknowledged. The next message, which looks the same, was cut
    // off on its way.
    deliveries.connected(BROKER, true);
    assert_eq!(deliveries.receive(1, true, 7, 2).known, Known::No);
}

/// A broker whose identifiers are places in a window.
#[test]
fn identifiers_that_come_round_early_lose_nothing() {
    for round in [WINDOW, WINDOW * 5] {
        let mut deliveries = Deliveries::new(None, WINDOW);
        deliveries.connected(BROKER, false);
        let mut seq = 0;
        for turn in 0..5 {
            for id in 1..=round {
                if turn == 4 && id == round {
                    break;
                }
                let known = deliveries.receive(id, false, 7, seq).known;
                assert_eq!(known, Known::No);
                deliveries.pushed(7, seq);
                seq += 1;
            }
        }
        // All of that is acknowledged; the next three are cut off on their way.
        deliveries.connected(BROKER, true);
        for id in [round, 1, 2] {
            let known = deliveries.receive(id, true, 7, seq).known;
            assert_eq!(known, Known::No, "{id} of {round} was never received");
        }
    }
}
