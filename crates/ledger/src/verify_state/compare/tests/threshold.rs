//! Alerts of thresholds, with a minimum duration.

use super::*;
use crate::verify_state::fold::Threshold;

/// A device with an alert that is active, one with an alert that is over and a value that waits.
fn crossings(lasting: i64) -> Fold {
    let threshold = Threshold {
        above: Some(50.0),
        below: None,
        band: 0.01,
        lasting,
    };
    let mut fold = Fold::new(Rules {
        sizes: vec![60],
        lateness: 30,
        retention: None,
        thresholds: BTreeMap::from([("temperature".to_owned(), threshold)]),
    });
    let log = [
        ("d1", 0, 60.0),
        ("d1", 30, 61.0),
        ("d1", 35, 62.0),
        ("d2", 0, 60.0),
        ("d2", 30, 60.0),
        ("d2", 40, 20.0),
        ("d2", 50, 55.0),
        ("d3", 0, 20.0),
    ];
    for (number, (device, at, value)) in (0..).zip(log) {
        take(&mut fold, number, device, (at, at), value);
    }
    fold
}

#[test]
fn the_expected_alerts_are_exact() {
    let fold = crossings(30);
    let report = compare_with(&fold, Kept::Whole, &stored_with_time(5, &fold));
    assert!(report.is_exact(), "{report:?}");
    // Three devices, their sensors and thresholds, and the time.
    assert_eq!((report.values_compared, report.not_comparable), (10, 0));
    let of = |device: &str| {
        let crossing = fold.devices[&format!("t\0p\0{device}")].sensors["temperature"].crossing;
        let crossing = crossing.unwrap();
        let alert = crossing.alert.map(|alert| (alert.raised, alert.offset));
        (alert, crossing.waiting.map(|waiting| waiting.since))
    };
    assert_eq!(of("d1"), (Some((true, 1)), None));
    assert_eq!(of("d2"), (Some((false, 4)), Some(50)));
    assert_eq!(of("d3"), (None, None));
}

#[test]
fn any_changed_bit_of_an_alert_or_of_a_wait_is_found() {
    let fold = crossings(30);
    let key = "d\0t\0p\0d2";
    let exact = stored_with_time(5, &fold);
    let end = exact.live[key].len() - (1 + 8 + 3 * 8 + 1);
    let wait = end - (1 + 8 + 1)..end;
    let alert = wait.start - 102 - 60..wait.start - 102 - 8;
    for at in alert.chain(wait) {
        for bit in 0..8 {
            let mut snapshot = stored_with_time(5, &fold);
            snapshot.live.get_mut(key).unwrap()[at] ^= 1 << bit;
            let report = compare_with(&fold, Kept::Whole, &snapshot);
            assert!(!report.is_exact(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn another_duration_or_another_history_is_a_difference() {
    let (fold, other) = (crossings(30), crossings(20));
    let report = compare_with(&other, Kept::Whole, &stored_with_time(5, &fold));
    assert!(report.is_exact(), "the readings raise the same alerts");
    let report = compare_with(&crossings(31), Kept::Whole, &stored_with_time(5, &fold));
    let fields: Vec<_> = report.findings.iter().map(|f| f.field.as_str()).collect();
    assert!(
        fields.contains(&"temperature threshold alert raised_at"),
        "{fields:?}"
    );
    assert!(
        fields.contains(&"temperature threshold alert raised"),
        "{fields:?}"
    );
}

#[test]
fn state_of_an_earlier_version_and_a_truncated_log_are_not_comparable() {
    let fold = crossings(30);
    let report = compare_with(&fold, Kept::Whole, &stored_with_time(4, &fold));
    assert!(report.is_exact(), "{report:?}");
    assert_eq!(report.not_comparable, 3);
    let report = compare_with(&fold, Kept::After(-1), &stored_with_time(5, &crossings(31)));
    assert!(report.is_exact(), "{report:?}");
    assert!(report.not_comparable >= 3);
}
