use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::topic::MAX_RETRY_AFTER;
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

    fn waiting_trouble(&self) -> Option<String> {
        self.topics.waiting_trouble(TopicId(usize::MAX))
    }

    fn batch(&mut self) -> Vec<Seq> {
        let batch = self.topics.next_batch(self.now, false);
        batch.map(|(_, seqs)| seqs.into()).unwrap_or_default()
    }
}

#[test]
fn messages_wait_for_a_new_topic_in_order() {
    let mut fixture = Fixture::new(10);
    let id = fixture.open("t", "p").unwrap();
    let (now, wanted) = (fixture.now, fixture.wanted.try_recv().unwrap());
    assert_eq!(&*wanted.topic, "t.p");
    for seq in [1, 2] {
        fixture.topics.enqueue(id, seq, now, Duration::ZERO);
    }
    assert!(fixture.batch().is_empty());
    fixture.created(id, Outcome::Ready);
    assert_eq!(fixture.batch(), [1, 2]);
    assert!(fixture.topics.recreate(id));
    for seq in [4, 3] {
        fixture.topics.requeue(id, seq, now);
    }
    assert!(
        fixture.batch().is_empty(),
        "must wait until it exists again"
    );
    fixture.created(id, Outcome::Ready);
    assert_eq!(fixture.batch(), [3, 4]);
}

#[test]
fn one_batch_is_in_flight_and_failed_messages_come_first() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.created(id, Outcome::Ready);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    fixture.topics.enqueue(id, 2, now, Duration::ZERO);
    assert_eq!(fixture.batch(), [1, 2]);
    fixture.topics.sent(id);
    fixture.topics.sent(id);
    fixture.topics.enqueue(id, 3, now, Duration::ZERO);
    fixture.topics.reported(id);
    assert!(fixture.batch().is_empty());
    fixture.topics.reported(id);
    fixture.topics.requeue(id, 2, now);
    assert_eq!(fixture.batch(), [2, 3]);
}

#[test]
fn the_rest_of_a_batch_comes_before_later_messages() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.created(id, Outcome::Ready);
    for seq in 1..=4 {
        fixture.topics.enqueue(id, seq, now, Duration::ZERO);
    }
    let (_, mut batch) = fixture.topics.next_batch(now, false).unwrap();
    assert_eq!(batch.pop_front(), Some(1));
    assert_eq!(batch.pop_front(), Some(2));
    // The producer did not accept the second one.
    let later = now + Duration::from_secs(1);
    fixture.topics.requeue(id, 2, later);
    fixture.topics.requeue_rest(id, batch);
    fixture.topics.enqueue(id, 5, now, Duration::ZERO);
    assert!(fixture.batch().is_empty(), "not before the retry");
    fixture.now = later;
    assert_eq!(fixture.batch(), [2, 3, 4, 5]);
    assert!(fixture.batch().is_empty());
}

#[test]
fn a_batch_lingers_from_its_first_message_on() {
    let mut fixture = Fixture::new(10);
    let (id, begin, linger) = (
        fixture.open("t", "p").unwrap(),
        fixture.now,
        Duration::from_millis(20),
    );
    fixture.created(id, Outcome::Ready);
    for (seq, millis) in [(1, 0), (2, 4), (3, 8), (4, 12), (5, 16), (6, 20)] {
        fixture.now = begin + Duration::from_millis(millis);
        assert!(seq == 6 || fixture.batch().is_empty(), "at {millis} ms");
        let now = fixture.now;
        fixture.topics.enqueue(id, seq, now, linger);
    }
    assert_eq!(fixture.batch(), [1, 2, 3, 4, 5, 6], "20 ms are over");
    let now = fixture.now;
    fixture.topics.enqueue(id, 7, now, linger);
    assert!(fixture.batch().is_empty());
    fixture.now += linger;
    assert_eq!(fixture.batch(), [7]);
    fixture.topics.enqueue(id, 8, fixture.now, linger);
    let batch = fixture.topics.next_batch(fixture.now, true);
    assert_eq!(batch.unwrap().1, [8], "linger is skipped");
}

#[test]
fn the_next_batch_is_due_when_only_time_is_missing() {
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

    fixture.topics.sent(id);
    assert_eq!(fixture.topics.next_due(), None, "a batch is in flight");
    assert_eq!(fixture.topics.in_flight(), 1);
    fixture.topics.requeue(id, 3, millis(1_000));
    fixture.topics.reported(id);
    assert_eq!(fixture.topics.next_due(), Some(millis(1_000)));
    assert_eq!(fixture.topics.in_flight(), 0);
}

#[test]
fn a_batch_waits_for_the_lookup() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.created(id, Outcome::Ready);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    assert!(fixture.topics.start_lookup(id) && !fixture.topics.start_lookup(id));
    assert!(fixture.batch().is_empty());
    fixture.topics.lookup_done("t.p");
    assert_eq!(fixture.batch(), [1]);
    assert!(!fixture.topics.start_lookup(id), "one lookup only");
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
fn a_topic_that_kafka_rejects_stays_rejected_and_counts_no_more() {
    let mut fixture = Fixture::new(1);
    let (id, now) = (fixture.open("a", "b_c").unwrap(), fixture.now);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    assert_eq!(fixture.created(id, Outcome::Refused), [1]);
    assert!(fixture.batch().is_empty());
    assert_eq!(fixture.open("a", "b_c"), Err(Refusal::TopicRefused));
    assert!(
        fixture.open("a_b", "c").is_ok(),
        "its name no longer collides"
    );
    assert!(fixture.open("a", "d").is_ok(), "the limit has room again");
}

#[test]
fn messages_do_not_wait_for_a_topic_that_cannot_be_created() {
    let mut fixture = Fixture::new(1);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    fixture.created(id, Outcome::NotCreatable);
    assert_eq!(fixture.batch(), [1], "it may exist");
    assert!(!fixture.topics.recreate(id));
}

#[test]
fn messages_wait_while_a_topic_cannot_be_created_yet() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    let other = fixture.open("t", "other").unwrap();
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    fixture.topics.enqueue(other, 2, now, Duration::ZERO);
    assert_eq!(fixture.waiting_trouble(), None, "no answer yet");
    for code in [
        RDKafkaErrorCode::InvalidReplicationFactor,
        RDKafkaErrorCode::PolicyViolation,
    ] {
        assert!(fixture.created(id, Outcome::Delayed(code)).is_empty());
    }
    let said = "topic t.p cannot be created yet: POLICY_VIOLATION; retrying";
    assert_eq!(fixture.waiting_trouble().as_deref(), Some(said));
    assert_eq!(fixture.open("t", "p"), Ok(id), "it is not refused");
    assert!(fixture.batch().is_empty());
    fixture.created(other, Outcome::Ready);
    assert_eq!(fixture.batch(), [2], "another topic continues");
    fixture.created(id, Outcome::Ready);
    assert_eq!(fixture.waiting_trouble(), None);
    assert_eq!(fixture.batch(), [1]);
}

#[test]
fn a_missing_topic_without_the_right_to_create_it_is_tried_again() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    let denied = Outcome::NotAuthorized(RDKafkaErrorCode::TopicAuthorizationFailed);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    fixture.created(id, denied);
    assert_eq!(fixture.topics.trouble(id), None, "it may exist");
    fixture.wanted.try_recv().unwrap();
    let mut delays = Vec::new();
    for _ in 0..10 {
        fixture.now += MAX_RETRY_AFTER;
        assert_eq!(fixture.batch(), [1]);
        assert!(fixture.topics.is_denied(id) && fixture.topics.recreate(id));
        assert!(fixture.topics.recreate(id), "for another record");
        let delay = fixture.topics.missing_delay(id);
        delays.push(delay);
        fixture.topics.requeue(id, 1, fixture.now + delay);
        assert!(fixture.batch().is_empty(), "it is being created");
        assert_eq!(&*fixture.wanted.try_recv().unwrap().topic, "t.p");
        assert!(fixture.wanted.try_recv().is_err(), "one request");
        fixture.created(id, denied);
        assert!(fixture.batch().is_empty(), "not before the delay");
        let said = "topic t.p cannot be created yet: TOPIC_AUTHORIZATION_FAILED; retrying";
        assert_eq!(fixture.waiting_trouble().as_deref(), Some(said));
    }
    assert!(delays[0] <= RETRY_AFTER && delays[9] >= MAX_RETRY_AFTER / 2);
    assert!(delays.iter().all(|delay| *delay <= MAX_RETRY_AFTER));
    // Somebody has created it.
    fixture.now += MAX_RETRY_AFTER;
    assert_eq!(fixture.batch(), [1]);
    fixture.topics.sent(id);
    fixture.topics.confirmed(id);
    assert_eq!(fixture.topics.trouble(id), None);
}

#[test]
fn a_topic_that_may_be_created_after_all_is_written_at_once() {
    let mut fixture = Fixture::new(10);
    let id = fixture.open("t", "p").unwrap();
    let denied = Outcome::NotAuthorized(RDKafkaErrorCode::TopicAuthorizationFailed);
    fixture.created(id, denied);
    assert!(fixture.topics.recreate(id));
    let (now, long) = (fixture.now, 2 * MAX_RETRY_AFTER);
    fixture.topics.requeue(id, 1, now + long);
    fixture.created(id, Outcome::Ready);
    fixture.now += MAX_RETRY_AFTER;
    assert_eq!(fixture.batch(), [1]);
}

#[test]
fn nothing_is_sent_while_the_producer_is_replaced() {
    let mut fixture = Fixture::new(10);
    let (id, now) = (fixture.open("t", "p").unwrap(), fixture.now);
    fixture.created(id, Outcome::Ready);
    fixture.topics.enqueue(id, 1, now, Duration::ZERO);
    assert_eq!(fixture.batch(), [1]);
    fixture.topics.sent(id);
    let resume_at = now + Duration::from_secs(5);
    fixture.topics.producer_restarted(resume_at);
    fixture.topics.requeue(id, 1, resume_at);
    // Of a topic that is opened meanwhile.
    let new = fixture.open("t", "new").unwrap();
    fixture.created(new, Outcome::Ready);
    fixture.topics.enqueue(new, 2, now, Duration::ZERO);
    assert!(fixture.topics.next_batch(now, true).is_none());
    assert_eq!(fixture.topics.next_due(), Some(resume_at));
    fixture.now = resume_at;
    let mut sent = [fixture.batch(), fixture.batch()];
    sent.sort();
    assert_eq!(sent, [[1], [2]]);
}
