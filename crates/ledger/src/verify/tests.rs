use proptest::prelude::*;

use super::*;

const RUN: &str = "r1";
const SENT_US: u64 = 1_767_225_600_000_000;

fn tally(connections: u32, messages: u64) -> Tally {
    Tally::new(Plan {
        run: RUN.to_owned(),
        connections,
        messages,
    })
}

/// Adds `(conn, seq)` pairs as the records of one partition.
fn feed(tally: &mut Tally, partition: i32, marks: &[(u32, u64)]) {
    for (offset, (conn, seq)) in (0i64..).zip(marks) {
        let mut value = String::new();
        let mark = Mark {
            conn: *conn,
            seq: *seq,
            sent_us: SENT_US,
        };
        payload::encode(&mut value, RUN, mark, 300);
        feed_bytes(tally, partition, offset, value.as_bytes());
    }
}

fn feed_bytes(tally: &mut Tally, partition: i32, offset: i64, value: &[u8]) {
    tally.record(Entry {
        place: Place {
            topic: "t",
            partition,
            offset,
        },
        value,
        timestamp_ms: (SENT_US / 1000) as i64 + 20,
        received_ms: Some((SENT_US / 1000) as i64 + 5),
    });
}

fn missing(conn: u32, first: u64, last: u64) -> Missing {
    Missing { conn, first, last }
}

#[test]
fn the_plan_distributes_all_messages() {
    let plan = Plan {
        run: RUN.to_owned(),
        connections: 4,
        messages: 10,
    };
    assert_eq!([0, 1, 2, 3].map(|conn| plan.of(conn)), [3, 3, 2, 2]);
}

#[test]
fn a_complete_run_is_complete() {
    let mut tally = tally(2, 5);
    feed(&mut tally, 0, &[(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]);
    let report = tally.report();
    assert!(tally.all_arrived() && report.complete());
    assert_eq!(
        (report.lost, report.duplicated, report.regressions),
        (0, 0, 0)
    );
    assert_eq!(report.missing, []);
    let record = report.sent_to_record_ms.unwrap();
    assert_eq!((record.count, record.max), (5, 20.0));
    assert_eq!(report.sent_to_received_ms.unwrap().max, 5.0);
}

#[test]
fn missing_ranges_are_reported() {
    let mut tally = tally(2, 200);
    let kept = (0..100).filter(|seq| !(10..=12).contains(seq) && *seq != 64);
    feed(&mut tally, 0, &kept.map(|seq| (0, seq)).collect::<Vec<_>>());
    feed(
        &mut tally,
        1,
        &(0..98).map(|seq| (1, seq)).collect::<Vec<_>>(),
    );
    let report = tally.report();
    assert!(!tally.all_arrived() && !report.complete());
    assert_eq!(report.lost, 6);
    assert_eq!(
        report.missing,
        [missing(0, 10, 12), missing(0, 64, 64), missing(1, 98, 99)]
    );
}

#[test]
fn without_records_all_messages_are_lost() {
    let report = tally(2, 7).report();
    assert_eq!(report.lost, 7);
    assert_eq!(report.missing, [missing(0, 0, 3), missing(1, 0, 2)]);
    assert_eq!(report.sent_to_record_ms, None);
}

#[test]
fn a_late_first_copy_is_a_regression() {
    let mut tally = tally(1, 4);
    feed(&mut tally, 0, &[(0, 0), (0, 2), (0, 1), (0, 3)]);
    let report = tally.report();
    assert_eq!((report.regressions, report.lost), (1, 0));
    assert_eq!(report.examples[0].what, "connection 0: 1 after 2");
    assert_eq!(report.examples[0].offset, 2);
}

#[test]
fn duplicates_are_not_regressions() {
    let mut tally = tally(1, 4);
    feed(
        &mut tally,
        0,
        &[(0, 0), (0, 1), (0, 0), (0, 1), (0, 2), (0, 3)],
    );
    let report = tally.report();
    assert_eq!(
        (report.regressions, report.duplicated, report.lost),
        (0, 2, 0)
    );
    assert!(report.complete());
}

#[test]
fn regressions_are_counted_per_partition() {
    let mut tally = tally(1, 4);
    feed(&mut tally, 0, &[(0, 1), (0, 3)]);
    feed(&mut tally, 1, &[(0, 0), (0, 2)]);
    assert_eq!(tally.report().regressions, 0);
}

#[test]
fn a_corrupt_record_fails_a_run_without_losses() {
    let mut tally = tally(1, 2);
    feed(&mut tally, 0, &[(0, 0), (0, 1)]);
    let mut value = String::new();
    payload::encode(
        &mut value,
        RUN,
        Mark {
            conn: 0,
            seq: 0,
            sent_us: SENT_US,
        },
        300,
    );
    feed_bytes(&mut tally, 0, 2, value.replace('.', "-").as_bytes());
    let report = tally.report();
    assert_eq!((report.lost, report.corrupt), (0, 1));
    assert!(!report.complete());
}

#[test]
fn foreign_records_do_not_fail_a_run() {
    let mut tally = tally(1, 1);
    feed_bytes(&mut tally, 0, 0, b"hello");
    feed_bytes(&mut tally, 0, 1, b"");
    feed(&mut tally, 0, &[(0, 0)]);
    let report = tally.report();
    assert_eq!(report.foreign, 2);
    assert!(report.complete());
}

#[test]
fn messages_outside_the_plan_fail_a_run() {
    let mut tally = tally(1, 2);
    feed(&mut tally, 0, &[(0, 0), (0, 1), (0, 2), (5, 0)]);
    let report = tally.report();
    assert_eq!(report.unplanned, 2);
    assert!(!report.complete());
}

proptest! {
    /// Compares with a simple implementation.
    #[test]
    fn the_tally_agrees_with_a_simple_count(marks in prop::collection::vec((0u32..3, 0u64..40), 0..300)) {
        let mut tally = tally(3, 120);
        feed(&mut tally, 0, &marks);
        let report = tally.report();

        let mut firsts: Vec<(u32, u64)> = Vec::new();
        for mark in &marks {
            if !firsts.contains(mark) {
                firsts.push(*mark);
            }
        }
        let regressions = firsts.iter().enumerate().filter(|(at, (conn, seq))| {
            firsts[..*at].iter().any(|(c, s)| c == conn && s > seq)
        });
        prop_assert_eq!(report.regressions, regressions.count() as u64);
        prop_assert_eq!(report.arrived, firsts.len() as u64);
        prop_assert_eq!(report.lost, 120 - firsts.len() as u64);
        prop_assert_eq!(report.duplicated, (marks.len() - firsts.len()) as u64);
        prop_assert_eq!(report.complete(), report.lost == 0);

        // The missing ranges are exactly the gaps.
        for (conn, state) in (0u32..).zip(&tally.conns) {
            let named: Vec<u64> = state.missing().flat_map(|(first, last)| first..=last).collect();
            let gaps: Vec<u64> = (0..40).filter(|seq| !firsts.contains(&(conn, *seq))).collect();
            prop_assert_eq!(named, gaps);
        }

        // The ranges that arrived are exactly the first copies.
        let found: Vec<(u32, u64)> = tally
            .found()
            .flat_map(|(conn, first, last)| (first..=last).map(move |seq| (conn, seq)))
            .collect();
        firsts.sort_unstable();
        prop_assert_eq!(found, firsts);
    }
}
