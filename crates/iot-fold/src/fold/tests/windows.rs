//! Windows against a naive model that looks at the whole log.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::WindowSummary;
use crate::sealed::add_stored;

proptest! {
    #[test]
    fn windows_match_a_naive_model(log in log()) {
        let mut fold = straight(&log);
        let keys: Vec<_> = states(&fold).into_keys().collect();
        let here = |fold: &Fold, key, size| fold.windows(key, size).unwrap().here;
        let all = |fold: &Fold| keys.iter().map(|key| SIZES.map(|size| here(fold, key, size))).collect::<Vec<_>>();
        let before = all(&fold);
        let mut kept = Kept::default();
        save(&mut fold, &mut kept);
        for (key, before) in keys.iter().zip(before) {
            for (size, before) in SIZES.into_iter().zip(before) {
                let DeviceWindows { mut here, stored } = fold.windows(key, size).unwrap();
                for (value, _) in stored.iter().filter_map(|key| kept.windows.get(key)) {
                    add_stored(&mut here, value).unwrap();
                }
                prop_assert_eq!(&here, &before, "the same before and after they are stored");
                for (sensor, found) in &here {
                    let expected = naive_windows(&log, &key.device, sensor, size);
                    prop_assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(expected) {
                        check_window(found, expected, size)?;
                    }
                }
            }
        }
    }

    #[test]
    fn late_values_are_counted_for_each_size(log in log()) {
        let mut fold = Fold::new(rules(), "device-data", 0);
        let mut watermarks = BTreeMap::new();
        let fresh = straight_taken(&log);
        for (offset, sent) in log.iter().enumerate() {
            let folded = feed(&mut fold, offset, *sent).unwrap();
            if !fresh[offset] {
                continue;
            }
            let watermark = watermarks.entry(sent.0).or_insert(i64::MIN);
            *watermark = reaches(offset, sent.1).max(*watermark);
            for (size, late) in SIZES.iter().zip(folded.late) {
                let end = sent.1 / size * size + size;
                prop_assert_eq!(late, u64::from(end + 30 <= *watermark));
            }
        }
    }
}

fn check_window(
    found: &WindowSummary,
    (start, values, sealed): NaiveWindow,
    size: i64,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(
        (found.start, found.end, found.sealed),
        (start, start + size, sealed)
    );
    prop_assert_eq!(found.count as usize, values.len());
    let n = values.len() as f64;
    let mean = values.iter().map(|(_, v)| v).sum::<f64>() / n;
    let squares = values.iter().map(|(_, v)| (v - mean).powi(2)).sum::<f64>();
    prop_assert!((found.mean - mean).abs() < 1e-9);
    prop_assert!((found.deviation - (squares / n).sqrt()).abs() < 1e-6);
    let least = values.iter().map(|(_, v)| *v).fold(f64::INFINITY, f64::min);
    let most = values
        .iter()
        .map(|(_, v)| *v)
        .fold(f64::NEG_INFINITY, f64::max);
    prop_assert_eq!((found.min, found.max), (least, most));
    let first = values.iter().min_by_key(|(t, _)| *t).unwrap().1;
    let last = values.iter().max_by_key(|(t, _)| *t).unwrap().1;
    prop_assert_eq!((found.first, found.last), (first, last));
    let time = values.iter().map(|(t, _)| *t as f64).sum::<f64>() / n;
    let spread = |(t, _): &(i64, f64)| (*t as f64 - time).powi(2);
    let spread = values.iter().map(spread).sum::<f64>();
    let both = |(t, v): &(i64, f64)| (*t as f64 - time) * (v - mean);
    let both = values.iter().map(both).sum::<f64>();
    let distinct = values.iter().any(|(t, _)| *t != values[0].0);
    prop_assert_eq!(found.slope.is_some(), distinct);
    if let Some(slope) = found.slope {
        prop_assert!((slope / 3_600_000.0 - both / spread).abs() < 1e-9);
    }
    Ok(())
}

/// Begin, values with their times, and whether it is sealed.
type NaiveWindow = (i64, Vec<(i64, f64)>, bool);

fn naive_windows(log: &[Sent], device: &str, sensor: &str, size: i64) -> Vec<NaiveWindow> {
    let mut watermark = i64::MIN;
    let mut windows = BTreeMap::<i64, Vec<(i64, f64)>>::new();
    for (offset, (_, timestamp, _, number, value)) in taken(log, device) {
        watermark = watermark.max(reaches(offset, timestamp));
        let start = timestamp / size * size;
        if NAMES[number] == sensor && start + size + 30 > watermark {
            windows.entry(start).or_default().push((timestamp, value));
        }
    }
    let all = windows
        .into_iter()
        .map(|(start, values)| (start, values, start + size + 30 <= watermark));
    all.collect()
}
