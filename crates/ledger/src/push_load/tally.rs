//! Counts what clients receive. Lines are searched, not parsed: thousands a second and client
//! must cost little beside the server that is measured.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use serde::Serialize;

use crate::histogram::Histogram;

/// What was received since the last question.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    /// Why connections ended, or could not be opened.
    pub(super) ended: BTreeMap<String, u64>,
    /// From the time in a message to its arrival, in microseconds.
    pub(super) latency: Histogram,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Subscriptions that began.
    pub(super) began: u64,
    /// Those of them that continued where the one before ended.
    pub(super) recovered: u64,
    pub(super) bytes: u64,
    pub(super) frames: u64,
    pub(super) pings: u64,
    pub(super) publications: u64,
    /// Changes of devices.
    pub(super) events: u64,
    /// Messages of devices that were left out.
    pub(super) lost: u64,
    /// Messages that came again, or too late.
    pub(super) repeated: u64,
}

impl Tally {
    pub(super) fn merge(&mut self, other: &Self) {
        let (of, more) = (&mut self.counts, other.counts);
        of.began += more.began;
        of.recovered += more.recovered;
        of.bytes += more.bytes;
        of.frames += more.frames;
        of.pings += more.pings;
        of.publications += more.publications;
        of.events += more.events;
        of.lost += more.lost;
        of.repeated += more.repeated;
        for (why, times) in &other.ended {
            *self.ended.entry(why.clone()).or_default() += times;
        }
        self.latency.merge(&other.latency);
    }

    pub(super) fn ended(&mut self, why: String) {
        *self.ended.entry(why).or_default() += 1;
    }
}

/// What a client has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) epoch: String,
    pub(super) offset: u64,
    /// The newest number of each device, by a hash of its name.
    newest: HashMap<u64, u64, BuildHasherDefault<Itself>>,
}

/// A key that is a hash already.
#[derive(Debug, Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {}
}

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Ping,
    /// The beginning of the subscription.
    Subscribed,
    /// A refusal, or the end of the subscription.
    Ended(String),
    Other,
}

impl Seen {
    /// Takes in a line that arrived at `now`, in microseconds since the epoch.
    pub(super) fn take(&mut self, line: &str, now: i64, tally: &mut Tally) -> Line {
        if line == "{}" {
            tally.counts.pings += 1;
            return Line::Ping;
        }
        // An end has no data, and no other line is short and has these words.
        if line.len() < 1_000
            && (line.contains(r#""error":{"#) || line.contains(r#""unsubscribe":{"#))
        {
            return Line::Ended(line.to_owned());
        }
        if line.starts_with(r#"{"push":"#) {
            tally.counts.publications += 1;
            if let Some(offset) = number_after(line, r#""pub":{"offset":"#) {
                self.offset = offset;
            }
            self.devices(line, Some(now), tally);
            return Line::Other;
        }
        let Some(at) = line.find(r#""subscribe":{"#) else {
            return Line::Other;
        };
        tally.counts.began += 1;
        let head = &line[at..];
        if let Some(epoch) = text_after(head, r#""epoch":""#) {
            epoch.clone_into(&mut self.epoch);
        }
        if let Some(offset) = number_after(head, r#""offset":"#) {
            self.offset = offset;
        }
        if line.contains(r#""recovered":true"#) {
            tally.counts.recovered += 1;
            for part in line.match_indices(r#"{"offset":"#) {
                self.offset = number_after(&line[part.0..], part.1).unwrap_or(self.offset);
            }
        }
        self.devices(line, None, tally);
        Line::Subscribed
    }

    /// Counts the devices of a line. Those with a partition are single messages, the others come
    /// from a snapshot.
    fn devices(&mut self, line: &str, now: Option<i64>, tally: &mut Tally) {
        const DEVICE: &str = r#""device":""#;
        let mut rest = line;
        while let Some(at) = rest.find(DEVICE) {
            let is_event = rest[..at].contains(r#""partition":""#);
            rest = &rest[at..];
            let name = text_after(rest, DEVICE).unwrap_or_default();
            let Some(seq) = number_after(rest, r#""seq":"#) else {
                break;
            };
            let Some(place) = rest.find(r#""timestamp":"#) else {
                break;
            };
            let time = number_after(&rest[place..], r#""timestamp":"#).unwrap_or_default();
            rest = &rest[place..];
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            let before = self.newest.insert(hasher.finish(), seq);
            if !is_event {
                continue;
            }
            tally.counts.events += 1;
            match before {
                Some(before) if seq <= before => {
                    tally.counts.repeated += 1;
                    self.newest.insert(hasher.finish(), before);
                }
                Some(before) => tally.counts.lost += seq - before - 1,
                None => {}
            }
            if let Some(now) = now {
                let age = now
                    - i64::try_from(time)
                        .unwrap_or(i64::MAX)
                        .saturating_mul(1_000);
                tally.latency.record(u64::try_from(age).unwrap_or(0));
            }
        }
    }
}

/// The digits that follow a text.
fn number_after(line: &str, text: &str) -> Option<u64> {
    let rest = &line[line.find(text)? + text.len()..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// What follows a text, up to a quote.
fn text_after<'l>(line: &'l str, text: &str) -> Option<&'l str> {
    let rest = &line[line.find(text)? + text.len()..];
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::super::fleet::{Message, Style};
    use super::*;

    fn pushed(device: u32, seq: u64) -> String {
        let message = Message {
            device,
            floor: 1,
            seq,
            time: 1_000,
        };
        let mut data = String::new();
        message.write(Style::Publication, &mut data);
        format!(r#"{{"push":{{"channel":"c","pub":{{"offset":{seq}0,"data":{data}}}}}}}"#)
    }

    #[test]
    fn gaps_and_repeated_messages_are_counted_by_device() {
        let (mut seen, mut tally) = (Seen::default(), Tally::default());
        for (device, seq) in [(1, 5), (2, 9), (1, 6), (1, 9), (2, 9), (2, 10)] {
            seen.take(&pushed(device, seq), 1_500_000, &mut tally);
        }
        let counts = tally.counts;
        assert_eq!((counts.events, counts.publications), (6, 6));
        assert_eq!((counts.lost, counts.repeated), (2, 1));
        assert_eq!(seen.offset, 100);
        let latency = tally.latency.percentiles().unwrap();
        assert_eq!((latency.count, latency.max), (6, 500.0));
    }

    #[test]
    fn what_follows_a_snapshot_is_compared_with_it() {
        let (mut seen, mut tally) = (Seen::default(), Tally::default());
        let device = r#"{"tenant":"t","device":"device-1","seq":7,"timestamp":1,"readings":{}}"#;
        let reply = format!(
            r#"{{"id":2,"subscribe":{{"recoverable":true,"epoch":"e","offset":4,"data":{{"devices":[{device}]}}}}}}"#
        );
        assert_eq!(seen.take(&reply, 0, &mut tally), Line::Subscribed);
        assert_eq!((seen.epoch.as_str(), seen.offset), ("e", 4));
        assert_eq!((tally.counts.began, tally.counts.events), (1, 0));
        seen.take(&pushed(1, 9), 0, &mut tally);
        assert_eq!((tally.counts.events, tally.counts.lost), (1, 1));
    }

    #[test]
    fn a_recovered_subscription_continues_at_its_last_publication() {
        let (mut seen, mut tally) = (Seen::default(), Tally::default());
        let reply = r#"{"id":2,"subscribe":{"epoch":"e","offset":4,"recovered":true,"publications":[{"offset":5,"data":{}},{"offset":8,"data":{}}]}}"#;
        seen.take(reply, 0, &mut tally);
        assert_eq!((seen.offset, tally.counts.recovered), (8, 1));
    }

    #[test]
    fn pings_and_ends_are_told_apart() {
        let (mut seen, mut tally) = (Seen::default(), Tally::default());
        assert_eq!(seen.take("{}", 0, &mut tally), Line::Ping);
        for end in [
            r#"{"id":2,"error":{"code":102,"message":"unknown channel"}}"#,
            r#"{"push":{"channel":"c","unsubscribe":{"code":2500,"reason":"resync"}}}"#,
        ] {
            assert_eq!(seen.take(end, 0, &mut tally), Line::Ended(end.to_owned()));
        }
    }
}
