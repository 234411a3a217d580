use std::time::Duration;

use super::*;

struct Fixture {
    topics: Topics,
    wanted: mpsc::UnboundedReceiver<Wanted>,
    now: Instant,
}

impl Fixture {
    fn new(max_per_tenant: usize) -> Self {
        let (wanted_end, wanted) = mpsc::unbounded_channel();
        let (created, _) = mpsc::unbounded_channel();
        Self {
            topics: Topics::new(max_per_tenant, true, wanted_end, created),
            wanted,
            now: Instant::now() + Duration::from_secs(1),
        }
    }

    fn open(&mut self, tenant: &str, project: &str) -> Result<TopicId, Refusal> {
        self.topics.open(&Route {
            topic: format!("{tenant}.{project}"),
            tenant: tenant.into(),
            project: project.into(),
            key: None,
        })
    }

    fn created(&mut self, id: TopicId, outcome: Outcome) -> VecDeque<Seq> {
        let topic = self.topics.name(id).clone();
        self.topics.created(&Created { topic, outcome })
    }

    fn lot(&mut self) -> Vec<Seq> {
        let lot = self.topics.next_lot(self.now, false);
        lot.map(|(_, seqs)| seqs.into()).unwrap_or_default()
    }
}

#[test]
fn messages_wait_for_a_new_topic_in_their_order() {
    let mut fixture = Fixture::new(10);
    let id = fixture.open("t", "p").unwrap();
    let (now, wanted) = (fixture.now, fixture.wanted.try_recv().unwrap());
    assert_eq!(&*wanted.topic, "t.p");
    for seq in [1, 2] {
        fixture.topics.enqueue(id, seq, now, Duration::ZERO);
    }
    assert!(fixture.lot().is_empty());
    fixture.created(id, Outcome::Ready);
    assert_eq!(fixture.lot(), [1, 2]);
    assert!(fixture.topics.gone(id));
    for seq in [4, 3] {
        fixture.topics.put_back(id, seq, now);
    }
    assert!(
        fixture.lot().is_empty(),
        "must wait until it is there again"
    );
    fixture.created(id, Outcome::Ready);
    assert_eq!(fixture.lot(), [3, 4]);
}

#[test]
fn the_next_lot_waits_for_the_one_before_and_what_failed_comes_first() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.created(id, Outcome::Ready);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    fixture.topics.enqueue(id, 2, now, Duration::ZERO);
    assert_eq!(fixture.lot(), [1, 2]);
    fixture.topics.given(id);
    fixture.topics.given(id);
    fixture.topics.enqueue(id, 3, now, Duration::ZERO);
    fixture.topics.settled(id);
    assert!(fixture.lot().is_empty());
    fixture.topics.settled(id);
    fixture.topics.put_back(id, 2, now);
    assert_eq!(fixture.lot(), [2, 3]);
}

#[test]
fn the_rest_of_a_lot_comes_before_what_came_later() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.created(id, Outcome::Ready);
    for seq in 1..=4 {
        fixture.topics.enqueue(id, seq, now, Duration::ZERO);
    }
    let (_, mut lot) = fixture.topics.next_lot(now, false).unwrap();
    assert_eq!(lot.pop_front(), Some(1));
    assert_eq!(lot.pop_front(), Some(2));
    // The second one was not taken.
    let later = now + Duration::from_secs(1);
    fixture.topics.put_back(id, 2, later);
    fixture.topics.put_back_rest(id, lot);
    fixture.topics.enqueue(id, 5, now, Duration::ZERO);
    assert!(fixture.lot().is_empty(), "not before it is tried again");
    fixture.now = later;
    assert_eq!(fixture.lot(), [2, 3, 4, 5]);
    assert!(fixture.lot().is_empty());
}

#[test]
fn a_lot_waits_for_others_for_as_long_as_the_first_lingers() {
    let mut fixture = Fixture::new(10);
    let (id, begin, linger) = (
        fixture.open("t", "p").unwrap(),
        fixture.now,
        Duration::from_millis(20),
    );
    fixture.created(id, Outcome::Ready);
    for (seq, millis) in [(1, 0), (2, 4), (3, 8), (4, 12), (5, 16), (6, 20)] {
        fixture.now = begin + Duration::from_millis(millis);
        assert!(seq == 6 || fixture.lot().is_empty(), "at {millis} ms");
        let now = fixture.now;
        fixture.topics.enqueue(id, seq, now, linger);
    }
    assert_eq!(fixture.lot(), [1, 2, 3, 4, 5, 6], "20 ms are over");
    let now = fixture.now;
    fixture.topics.enqueue(id, 7, now, linger);
    assert!(fixture.lot().is_empty());
    fixture.now += linger;
    assert_eq!(fixture.lot(), [7]);
    fixture.topics.enqueue(id, 8, fixture.now, linger);
    let lot = fixture.topics.next_lot(fixture.now, true);
    assert_eq!(lot.unwrap().1, [8], "no other will come");
}

#[test]
fn the_next_lot_is_due_when_time_alone_is_missing() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    let millis = |millis| now + Duration::from_millis(millis);
    let linger = Duration::from_millis(20);
    fixture.topics.enqueue(id, 1, now, linger);
    assert_eq!(
        fixture.topics.next_due(),
        None,
        "its topic is being created"
    );
    fixture.created(id, Outcome::Ready);
    fixture.topics.enqueue(id, 2, millis(17), linger);
    assert_eq!(fixture.topics.next_due(), Some(millis(20)));

    fixture.topics.given(id);
    assert_eq!(fixture.topics.next_due(), None, "a lot is outstanding");
    assert_eq!(fixture.topics.at_producer(), 1);
    fixture.topics.put_back(id, 3, millis(1_000));
    fixture.topics.settled(id);
    assert_eq!(fixture.topics.next_due(), Some(millis(1_000)));
    assert_eq!(fixture.topics.at_producer(), 0);
}

#[test]
fn a_lot_waits_for_the_log() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.created(id, Outcome::Ready);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    assert!(fixture.topics.ask_log(id) && !fixture.topics.ask_log(id));
    assert!(fixture.lot().is_empty());
    fixture.topics.log_read("t.p");
    assert_eq!(fixture.lot(), [1]);
    assert!(!fixture.topics.ask_log(id), "it is read once");
}

#[test]
fn colliding_names_and_too_many_topics_are_refused() {
    let mut fixture = Fixture::new(2);
    let first = fixture.open("a_b", "c").unwrap();
    assert_eq!(fixture.open("a", "b_c"), Err(Refusal::TopicCollision));
    assert_eq!(fixture.open("a_b", "c"), Ok(first), "the first one stays");
    assert!(fixture.open("t", "1").is_ok());
    assert!(fixture.open("t", "2").is_ok());
    assert_eq!(fixture.open("t", "3"), Err(Refusal::TopicLimit));
    assert!(fixture.open("u", "3").is_ok(), "another tenant");
}

#[test]
fn what_kafka_refuses_is_refused_from_then_on_and_leaves_its_place() {
    let mut fixture = Fixture::new(1);
    let (id, now) = (fixture.open("a", "b_c").unwrap(), fixture.now);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    assert_eq!(fixture.created(id, Outcome::Refused), [1]);
    assert!(fixture.lot().is_empty());
    assert_eq!(fixture.open("a", "b_c"), Err(Refusal::TopicRefused));
    assert!(fixture.open("a_b", "c").is_ok(), "the twin that Kafka has");
    assert!(fixture.open("a", "d").is_ok(), "the tenant's count");
}

#[test]
fn a_topic_that_may_not_be_created_is_not_waited_for() {
    let mut fixture = Fixture::new(1);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    fixture.created(id, Outcome::NotAllowed);
    assert_eq!(fixture.lot(), [1], "it may be there all the same");
    assert!(!fixture.topics.gone(id));
}
