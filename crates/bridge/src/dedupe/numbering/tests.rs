use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const BROKER: &str = "mqtt://broker:1883";
/// The broker's send window: how many messages it sends without an acknowledgement.
const WINDOW: u16 = 2_000;

/// Which message a PUBLISH carries; only the test knows.
type Truth = u64;

/// A broker that assigns packet identifiers sequentially, a bridge, and Kafka.
struct World {
    next_id: u16,
    next_truth: Truth,
    unacknowledged: VecDeque<(u16, Truth)>,
    numbering: Numbering,
    first_seq: Seq,
    ring: VecDeque<Slot>,
    /// Everything that was ever in this process's ring.
    pushed: Vec<Truth>,
    log: HashMap<(u64, u64), (ReceiveId, Truth)>,
    written: HashMap<Truth, usize>,
    checkpoint: Option<Checkpoint>,
}

struct Slot {
    truth: Option<(Truth, Option<ReceiveId>)>,
    checkpoint: Option<Checkpoint>,
    confirmed: bool,
}

impl World {
    fn new(next_id: u16) -> Self {
        let mut numbering = Numbering::new(None, WINDOW);
        numbering.connected(BROKER, false);
        let mut world = Self {
            next_id,
            next_truth: 0,
            unacknowledged: VecDeque::new(),
            numbering,
            first_seq: 0,
            ring: VecDeque::new(),
            pushed: Vec::new(),
            log: HashMap::new(),
            written: HashMap::new(),
            checkpoint: None,
        };
        // Until the broker has proved sequential.
        world.flow(usize::from(WINDOW) + 1_000);
        world
    }

    /// The broker sends new messages, as many as its send window has room for.
    fn publish(&mut self, count: usize) {
        for _ in 0..count.min(usize::from(WINDOW) - self.unacknowledged.len()) {
            let (id, truth) = (self.next_id, self.next_truth);
            self.next_id = following(id);
            self.next_truth += 1;
            self.unacknowledged.push_back((id, truth));
            self.receive(id, false, truth);
        }
    }

    /// All messages have the same content, so only their numbers tell them apart.
    fn receive(&mut self, id: u16, dup: bool, truth: Truth) {
        let received = self.numbering.receive(id, dup, 7, self.first_seq);
        if let Kind::Redelivery(seq) = received.kind {
            assert_eq!(
                self.pushed[seq as usize], truth,
                "mistaken for another message"
            );
            return;
        }
        if received.checkpoint_due {
            let checkpoint = Some(self.numbering.checkpoint(id, 0));
            self.push(Slot {
                truth: None,
                checkpoint,
                confirmed: false,
            });
        }
        let looked_up = received.id.filter(|_| received.kind == Kind::MaybeWritten);
        let found = looked_up.and_then(|id| self.log.get(&(id.epoch, id.number)));
        if let Some((id, written)) = found {
            assert_eq!(id.hash, 7);
            assert_eq!(*written, truth, "mistaken for another message in the log");
        }
        let seq = self.push(Slot {
            truth: Some((truth, received.id)),
            checkpoint: None,
            confirmed: found.is_some(),
        });
        if received.id.is_some() {
            self.numbering.pushed(7, seq);
        }
    }

    fn push(&mut self, slot: Slot) -> Seq {
        self.pushed
            .push(slot.truth.as_ref().map_or(u64::MAX, |(truth, _)| *truth));
        self.ring.push_back(slot);
        self.first_seq + self.ring.len() as Seq - 1
    }

    /// Kafka confirms every `step`th message that is not confirmed yet.
    fn confirm(&mut self, step: usize) {
        let unconfirmed = self.ring.iter_mut().filter(|slot| !slot.confirmed);
        for slot in unconfirmed.step_by(step) {
            slot.confirmed = true;
            if let Some(checkpoint) = slot.checkpoint.take() {
                self.checkpoint = Some(checkpoint);
            }
            if let Some((truth, id)) = slot.truth {
                *self.written.entry(truth).or_default() += 1;
                if let Some(id) = id {
                    self.log.insert((id.epoch, id.number), (id, truth));
                }
            }
        }
    }

    /// The bridge acknowledges; `lost` acknowledgements never reach the broker.
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
        self.numbering.connected(BROKER, true);
        for (id, truth) in self.unacknowledged.clone() {
            self.receive(id, true, truth);
        }
    }

    fn crash(&mut self) {
        self.ring.clear();
        self.pushed.clear();
        self.first_seq = 0;
        self.numbering = Numbering::new(self.checkpoint.clone(), WINDOW);
        self.reconnect();
    }

    /// Messages flow undisturbed, possibly until identifiers wrap around.
    fn flow(&mut self, messages: usize) {
        for _ in 0..messages.div_ceil(1_000) {
            self.publish(1_000);
            self.confirm(1);
            self.acknowledge(false);
        }
    }

    /// The broker continues with another identifier, and the bridge runs until
    /// Kafka has a checkpoint of that.
    fn forget_identifiers(&mut self, next_id: u16) {
        self.confirm(1);
        self.acknowledge(false);
        self.next_id = next_id;
        self.flow(1);
    }

    fn end(&mut self) {
        // Messages with lost acknowledgements are redelivered.
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
        // Close to a full wrap, so that identifiers meet earlier ones.
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

    /// Messages with the same content are never mistaken for each other,
    /// whatever is confirmed, acknowledged, lost, disconnected or killed, so
    /// nothing is lost. With a sequential broker nothing is written twice.
    #[test]
    fn redeliveries_and_nothing_else_are_deduplicated(
        first_id in 1..=u16::MAX,
        events in prop::collection::vec(event(), 1..25),
    ) {
        let mut world = World::new(first_id);
        run(&mut world, events);
        let duplicates = world.written.values().filter(|times| **times > 1).count();
        prop_assert_eq!(duplicates, 0);
    }

    /// A broker that breaks the sequence of its identifiers causes duplicates at
    /// most.
    #[test]
    fn broken_sequences_lose_nothing(
        events in prop::collection::vec(
            prop_oneof![8 => event(), 1 => (1..=u16::MAX).prop_map(Event::ForgetIdentifiers)],
            1..25,
        ),
    ) {
        run(&mut World::new(1), events);
    }
}

#[test]
fn another_session_or_broker_starts_a_new_epoch() {
    let mut numbering = Numbering::new(None, WINDOW);
    numbering.connected(BROKER, false);
    let first = numbering.epoch();
    assert!(
        numbering.receive(5, false, 1, 0).checkpoint_due,
        "a checkpoint precedes the first message"
    );
    numbering.pushed(1, 0);
    numbering.connected("mqtt://backup:1883", true);
    assert_eq!(numbering.receive(5, true, 1, 0).kind, Kind::New);
    assert_ne!(numbering.epoch(), first);
    let second = numbering.epoch();
    numbering.connected("mqtt://backup:1883", false);
    assert_ne!(numbering.epoch(), second);
}

#[test]
fn random_identifiers_turn_numbering_off() {
    let mut numbering = Numbering::new(None, WINDOW);
    numbering.connected(BROKER, false);
    let mut checkpoints = 0;
    for id in [9, 3, 7, 1, 8, 2, 6, 4] {
        let received = numbering.receive(id, false, 1, 0);
        checkpoints += usize::from(received.checkpoint_due);
    }
    assert_eq!(numbering.epoch(), 0);
    assert_eq!(numbering.receive(5, false, 1, 0).id, None);
    // One for each epoch, and one that says that numbering is off.
    assert_eq!(checkpoints, 5);
}

/// A broker that takes the lowest free identifier.
#[test]
fn a_reused_identifier_may_be_another_message() {
    let mut numbering = Numbering::new(None, WINDOW);
    numbering.connected(BROKER, false);
    numbering.receive(1, false, 7, 0);
    numbering.pushed(7, 1);
    // It is written and acknowledged. The next message has the same content, and
    // the connection is lost before it arrives.
    numbering.connected(BROKER, true);
    assert_eq!(numbering.receive(1, true, 7, 2).kind, Kind::New);
}

/// A broker whose identifiers are slots of its send window.
#[test]
fn identifiers_that_wrap_early_lose_nothing() {
    for round in [WINDOW, WINDOW * 5] {
        let mut numbering = Numbering::new(None, WINDOW);
        numbering.connected(BROKER, false);
        let mut seq = 0;
        for turn in 0..5 {
            for id in 1..=round {
                if turn == 4 && id == round {
                    break;
                }
                let kind = numbering.receive(id, false, 7, seq).kind;
                assert_eq!(kind, Kind::New);
                numbering.pushed(7, seq);
                seq += 1;
            }
        }
        // All of these are acknowledged; the connection is lost before the next
        // three arrive.
        numbering.connected(BROKER, true);
        for id in [round, 1, 2] {
            let kind = numbering.receive(id, true, 7, seq).kind;
            assert_eq!(kind, Kind::New, "{id} of {round} was never received");
        }
    }
}
