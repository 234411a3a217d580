//! A log with clocks that are ahead.

use super::*;

/// Two devices. One of them is far ahead in one message, and one record is from the future.
fn clocks() -> Fold {
    let mut fold = Fold::new(Rules {
        sizes: vec![60_000],
        lateness: 30_000,
        retention: None,
        thresholds: BTreeMap::new(),
    });
    for number in 0..40_i64 {
        let now = 1_000_000 + number * 10_000;
        let device = if number % 4 == 3 { "d2" } else { "d1" };
        let ahead = if matches!(number, 20 | 39) {
            290_000
        } else {
            0
        };
        let recorded = if number == 30 { 3_786_912_000_000 } else { now };
        take(
            &mut fold,
            number,
            device,
            (now + ahead, recorded),
            number as f64 / 7.0,
        );
    }
    fold
}

fn current(fold: &Fold) -> Snapshot {
    stored_with_time(4, fold)
}

fn check(kept: Kept, snapshot: &Snapshot) -> Report {
    compare_with(&clocks(), kept, snapshot)
}

#[test]
fn the_state_after_wrong_clocks_is_exact() {
    let fold = clocks();
    let report = check(Kept::Whole, &current(&fold));
    assert!(report.is_exact(), "{report:?}");
    // Two devices, two sensors, and the time.
    assert_eq!(report.values_compared, 5);
    let device = &fold.devices["t\x00p\x00d1"];
    assert_eq!(device.newest.unwrap().moment.seq, Some(38));
    assert!(fold.devices["t\x00p\x00d2"].newest.unwrap().ahead);
    assert_eq!(device.watermark, Some(1_000_000 + 380_000));
    // Three times are above it: two, and the one from the future.
    assert_eq!(fold.time.time, Some(1_000_000 + 370_000));
}

#[test]
fn any_changed_bit_of_times_is_found() {
    let exact = current(&clocks());
    let device = &exact.live["d\x00t\x00p\x00d2"];
    // Not compared: rules, detectors, and the time and the clock at the last message.
    let rules = SENSOR_AT + 1 - 8..SENSOR_AT + 1 - 4;
    let end = device.len() - (1 + 8 + 3 * 8 + 1);
    let detectors = end - DETECTORS.len()..end;
    let clock = device.len() - 25..device.len() - 1;
    let skipped = |at: &usize| rules.contains(at) || detectors.contains(at) || clock.contains(at);
    let of_device = (0..device.len()).filter(|at| !skipped(at));
    // Not compared either: the clocks, and whether they were taken over.
    let time = exact.live[layout::TIME_FIELD].len();
    let of_time = (0..time).filter(|at| !(17..34).contains(at));
    let all = of_device.map(|at| ("d\x00t\x00p\x00d2", at));
    for (key, at) in all.chain(of_time.map(|at| (layout::TIME_FIELD, at))) {
        for bit in 0..8 {
            let mut snapshot = current(&clocks());
            snapshot.live.get_mut(key).unwrap()[at] ^= 1 << bit;
            let report = check(Kept::Whole, &snapshot);
            assert!(!report.is_exact(), "bit {bit} of byte {at} of {key:?}");
        }
    }
}

#[test]
fn a_time_that_was_taken_over_is_compared_as_far_as_it_is_known() {
    let fold = clocks();
    let mut snapshot = current(&fold);
    let value = snapshot.live.get_mut(layout::TIME_FIELD).unwrap();
    let mut taken_over = value[..9].to_vec();
    taken_over.extend(9_999_999_i64.to_le_bytes());
    taken_over.extend([0; 2 * 8]);
    taken_over.push(1);
    taken_over.extend(count(2));
    taken_over.extend_from_slice(&value[value.len() - 16..]);
    *value = taken_over;
    assert!(check(Kept::Whole, &snapshot).is_exact());
    *snapshot
        .live
        .get_mut(layout::TIME_FIELD)
        .unwrap()
        .last_mut()
        .unwrap() ^= 1;
    assert_eq!(check(Kept::Whole, &snapshot).differences, 1);
}

#[test]
fn only_state_of_earlier_versions_may_lack_the_time() {
    let fold = clocks();
    for (version, missing) in [(2, 0), (3, 0), (4, 1), (5, 1)] {
        let report = check(Kept::Whole, &stored_in(version, &fold));
        assert_eq!(
            (report.missing, report.differences),
            (missing, 0),
            "{version}"
        );
    }
}

#[test]
fn a_truncated_log_says_nothing_about_earlier_records() {
    let mut snapshot = current(&clocks());
    let value = snapshot.live.get_mut(layout::TIME_FIELD).unwrap();
    // A deleted record was later.
    value[9] ^= 1;
    assert!(check(Kept::After(i64::MAX), &snapshot).is_exact());
    assert_eq!(check(Kept::Whole, &snapshot).differences, 1);
}
