//! Clocks that are ahead: of devices, in one message, and what comes after it.

use super::*;

/// A moment in 2026, in milliseconds, at the start of an hour.
const NOW: i64 = 1_780_000_000_000 / 3_600_000 * 3_600_000;
const SECOND: i64 = 1_000;
/// The start of 2090.
const FAR: i64 = 3_786_912_000_000;

/// Windows of a minute.
fn minutes() -> FoldRules {
    let windows = WindowRules::new(vec![60 * SECOND], 30 * SECOND, 15);
    FoldRules {
        windows,
        limits: limits(50.0),
        silence: Some(60 * SECOND),
        ..rules()
    }
}

/// Applies a temperature of device `d0` in room 1, at `at`, recorded at `recorded`.
fn send(fold: &mut Fold, offset: i64, at: i64, recorded: Option<i64>, value: f64) -> Folded {
    let mut message = message((0, at, Some(offset as u64), 0, value));
    message.location = None;
    let event = event(offset, recorded, &message);
    super::apply(fold, &event).unwrap()
}

/// One message a second for five minutes; that of second 60 has the time `ahead`.
fn with_one_ahead(ahead: i64) -> (Fold, Vec<Folded>) {
    let mut fold = Fold::new(minutes(), "device-data", 0);
    let folded = (0..300).map(|second| {
        let now = NOW + second * SECOND;
        let at = if second == 60 { ahead } else { now };
        let value = if second == 200 { 70.0 } else { 20.0 };
        send(&mut fold, second, at, Some(now), value)
    });
    let folded = folded.collect();
    (fold, folded)
}

#[test]
fn a_clock_that_was_ahead_once_freezes_nothing() {
    for ahead in [NOW + 350 * SECOND, FAR] {
        let (fold, folded) = with_one_ahead(ahead);
        assert_eq!(folded.iter().map(|one| one.stale).sum::<u64>(), 0);
        assert_eq!(folded.iter().map(|one| one.late[0]).sum::<u64>(), 0);
        let threshold = AlertKind::Threshold as usize;
        let raised: Vec<_> = (0..)
            .zip(&folded)
            .filter(|(_, one)| one.raised[threshold] > 0)
            .collect();
        assert_eq!(
            raised.iter().map(|(second, _)| *second).collect::<Vec<_>>(),
            [200]
        );
        let state = &fold.devices[0].state;
        let last = NOW + 299 * SECOND;
        assert_eq!(
            (state.newest.timestamp, state.sensors[0].newest.timestamp),
            (last, last)
        );
        assert_eq!(state.watermark, last);
        let windows = fold.windows(&state.key.clone(), 60 * SECOND).unwrap().here;
        let windows = windows["temperature"]
            .iter()
            .map(|w| (w.start, w.count, w.sealed));
        let minute = |number: i64| NOW + number * 60 * SECOND;
        let expected = [
            (minute(0), 60, true),
            (minute(1), 59, true),
            (minute(2), 60, true),
            (minute(3), 60, true),
            (minute(4), 60, false),
            // Its own time decides the window of the one that was ahead.
            (ahead / (60 * SECOND) * 60 * SECOND, 1, false),
        ];
        assert_eq!(windows.collect::<Vec<_>>(), expected);
        assert_eq!(fold.all().devices[0].1.timestamp, last);
    }
}

#[test]
fn a_window_ahead_is_sealed_when_the_records_have_reached_it() {
    let (mut fold, _) = with_one_ahead(NOW + 350 * SECOND);
    fold.take_changes();
    for second in 300..460 {
        let now = NOW + second * SECOND;
        send(&mut fold, second, now, Some(now), 20.0);
    }
    let sealed = fold.take_changes().windows;
    let counts = sealed
        .iter()
        .map(|sealed| (sealed.start, sealed.sensors[0].1.count));
    let minute = |number: i64| NOW + number * 60 * SECOND;
    // The reading that was ahead and those of that minute.
    assert_eq!(
        counts.collect::<Vec<_>>(),
        [(minute(4), 60), (minute(5), 61), (minute(6), 60)]
    );
}

#[test]
fn an_alert_of_a_reading_from_the_future_is_repeated_and_cleared_in_the_present() {
    let mut fold = Fold::new(minutes(), "device-data", 0);
    let changes = [
        (FAR, 70.0),
        (NOW, 71.0),
        (NOW + SECOND, 72.0),
        (NOW + 2 * SECOND, 20.0),
    ];
    let mut told = Vec::new();
    for (offset, (at, value)) in (0..).zip(changes) {
        send(&mut fold, offset, at, Some(NOW + offset * SECOND), value);
        let alerts = fold.take_alerts().into_iter();
        let alerts = alerts.filter(|alert| alert.kind == AlertKind::Threshold);
        told.extend(alerts.map(|alert| (alert.timestamp, alert.count, alert.state)));
    }
    use AlertStatus::{Cleared, Raised};
    let expected = [
        (FAR, 1, Raised),
        (NOW, 2, Raised),
        (NOW + SECOND, 3, Raised),
        (NOW + 2 * SECOND, 3, Cleared),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_day_that_is_uploaded_late_folds_as_its_event_times_say() {
    let day = |recorded: fn(i64) -> Option<i64>| {
        let mut fold = Fold::new(minutes(), "device-data", 0);
        let folded: Vec<_> = (0..1_440_i64)
            .map(|minute| {
                // Now and then out of order.
                let minute_sent = if minute % 50 == 7 { minute - 3 } else { minute };
                let at = NOW + minute_sent * 60 * SECOND;
                send(&mut fold, minute, at, recorded(at), (minute % 60) as f64)
            })
            .collect();
        let mut states = states(&fold);
        states
            .values_mut()
            .for_each(|state| (state.heard, state.silence) = (None, None));
        let sealed = fold.take_changes().windows.into_iter();
        let sealed: Vec<_> = sealed
            .map(|sealed| Sealed {
                expires: 0,
                ..sealed
            })
            .collect();
        (folded, states, sealed)
    };
    // Without the times of records nothing but event times counts.
    let by_event_time = day(|_| None);
    assert!(by_event_time.0.iter().any(|one| one.stale > 0));
    assert_eq!(day(|_| Some(NOW + 86_400 * SECOND)), by_event_time);
    assert_eq!(day(Some), by_event_time);
}
