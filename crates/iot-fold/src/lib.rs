//! The state of one partition as a pure function of its log.

mod alert;
mod catalogue;
mod detect;
mod fold;
mod layout;
mod limits;
mod model;
mod names;
mod pack;
mod refusal;
mod sealed;
mod state;
mod watch;
mod window;

pub use catalogue::{Catalogue, Known, Limits};
pub use detect::{
    DetectRules, Detection, DriftConfig, SpikeConfig, StuckConfig, ThresholdConfig, TogglingConfig,
};
pub use fold::{Change, Event, Fold, FoldRules, Folded, MOST_SIZES, Updates};
pub use limits::{Limit, LimitRules, ThresholdRule};
pub use model::{
    Alert, AlertKind, AlertStatus, Device, DeviceKey, Level, Place, Readings, Value, WindowSummary,
    Windows,
};
pub use pack::UnpackError;
pub use refusal::Refusal;
pub use sealed::{DeviceWindows, add_stored};
pub use window::WindowRules;

/// The last moment of 2099, in milliseconds since the epoch: no later time is taken.
pub const LATEST: i64 = 4_102_444_799_999;
