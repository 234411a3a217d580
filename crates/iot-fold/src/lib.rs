//! The fold: device messages go in; newest values, windows and alerts come out.
//!
//! # What it folds
//!
//! A Kafka partition is a log of records. The consumer parses each record, checks it and
//! passes it as an [`Event`] to the [`Fold`] of its partition, in the order of the log.
//! [`Fold::apply`] takes the event into the state of its device, and returns what that
//! changed, for metrics.
//!
//! # What the state is
//!
//! Of each device: its newest time and place, its watermark (how far its event times have
//! come, as far as its records have) and its last silence. Of the partition: its time. Of each of its sensors: the newest value, the open
//! [windows](WindowRules), the last alert of each [kind](AlertKind), and what the
//! [detectors](detect) have learnt. docs/state.md defines all of it, and
//! docs/detection.md explains the detectors.
//!
//! # What comes out
//!
//! - [`Fold::take_changes`]: what a store has to write, as [`Changes`]. Devices that
//!   changed come as keys and bytes, because their state continues to change. [`Sealed`]
//!   windows come as values, which the store encodes. [`Fold::restore`] makes a fold from
//!   the stored bytes, and [`add_stored`] reads stored windows.
//! - [`Fold::take_updates`]: what each message changed for clients, in order, as [`Updates`].
//! - [`Fold::all`], as [`Contents`], and [`Fold::windows`]: the present values, for questions.
//!
//! # Why it is pure
//!
//! The state is a function of the log and the [rules](FoldRules): there is no clock, no
//! randomness, no I/O, and no trace of how records came in batches. So a consumer that
//! crashed loads the stored state, reads the same records again and gets the same windows,
//! and alerts with the same ids; two replicas with the same rules agree; and
//! `iot-ledger verify-state` can compute the state a second time, with code of its own, and
//! compare. The dependencies of this crate are the proof: none of them can do I/O.
//!
//! # Where to read on
//!
//! | module | |
//! |---|---|
//! | `fold` | the state of a partition: applies events, collects changes and updates |
//! | `state` | the state of one device and its sensors |
//! | `window`, `sealed` | tumbling windows while they are open, and after they are sealed |
//! | `detect`, `kind`, `alert` | detectors, the kinds of alerts, the life of an alert |
//! | `stamp`, `log_time` | clocks that are wrong: those of devices, those of records |
//! | `watch`, `queue` | devices that have fallen silent |
//! | `catalogue`, `limits` | known sensors, and the limits of their values |
//! | `layout` | keys and bytes of what a store holds |
//! | `model`, `new_values` | what clients see, and what of it a message has changed |
//!
//! Times are milliseconds since the epoch. The crate expects valid messages: units,
//! names and values are checked by the consumer. What it refuses itself is a [`Refusal`].

mod alert;
mod catalogue;
pub mod detect;
mod fold;
mod kind;
mod layout;
mod limits;
mod log_time;
mod model;
mod names;
mod new_values;
mod queue;
mod refusal;
mod sealed;
mod stamp;
mod state;
mod watch;
mod window;

pub use catalogue::{Catalogue, Known, Limits, SensorKind};
pub use fold::{
    Change, Changes, Contents, Event, Fold, FoldRules, Folded, MOST_SIZES, Update, Updates,
};
pub use kind::AlertKind;
pub use layout::{SCHEMA, SCHEMA_BEFORE, TIME_KEY, UnpackError};
pub use limits::{Limit, LimitRules, ThresholdRule};
pub use model::{
    Alert, AlertStatus, ClearReason, Device, DeviceKey, Level, Place, Readings, Value,
    WindowSummary, Windows,
};
pub use new_values::{NewValue, NewValues};
pub use refusal::Refusal;
pub use sealed::{DeviceWindows, Sealed, add_stored};
pub use window::{Window, WindowRules};

/// The last moment of 2099. Later times are taken neither from messages nor from records.
pub const LATEST: i64 = 4_102_444_799_999;
