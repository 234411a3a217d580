//! What clients see of a partition while it passes from one pipeline to the next: the one before,
//! as it was, until the next has come as far. The view neither goes back nor blank.

use std::sync::Arc;

use iot_live::Feed;

use crate::kafka::marks::MarkKeeper;
use crate::kafka::progress::Progress;
use crate::live::Source;
use crate::pipeline::{Effects, Pipeline};

/// A pipeline that is no further behind what is shown is followed by the hub, which shows it from
/// the offset on that clients have seen. More than a batch has: one that came from behind to beyond
/// that offset would leave a gap. A pipeline that is further behind would cost a second copy for long.
pub(crate) const NEAR: i64 = 50_000;
/// With more records than that to read, a pipeline is not shown message by message until half of
/// them are left: clients have no use for each of so many old messages, and copying them takes CPU.
/// What is nearer is shown message by message, also alerts that are over by then.
const FAR: i64 = 100_000;
/// What is far behind is shown as it is every so many seconds: all partitions at nearly the same
/// time, because clients with `mode=all` get a snapshot each time.
const COPY_EVERY: i64 = 10;

/// A partition as clients see it.
#[derive(Default)]
pub(crate) struct Showing {
    /// Of a pipeline that has ended, or is not shown now.
    feed: Option<Feed>,
    /// What is shown comes from the records before this offset.
    reached: i64,
    /// When the records of the pipeline that is shown, or was, were fetched.
    marks: Option<Arc<MarkKeeper>>,
    /// The pipeline has much to read first.
    is_catching_up: bool,
    /// The period, of [`COPY_EVERY`] seconds since the epoch, in which it was last shown.
    copied: i64,
}

impl Showing {
    /// Shows the pipeline, which the hub does as soon as it has come as far as what was shown. While
    /// it is far from the end of the log, what was shown stays, and is replaced now and then.
    pub(crate) async fn turn_to<E: Effects>(
        &mut self,
        pipeline: &mut Pipeline<E>,
        source: &Source,
        progress: &Progress,
    ) {
        let period = jiff::Timestamp::now().as_second() / COPY_EVERY;
        self.turn_at(period, pipeline, source, progress).await;
    }

    /// [`turn_to`](Self::turn_to) in this period.
    pub(crate) async fn turn_at<E: Effects>(
        &mut self,
        period: i64,
        pipeline: &mut Pipeline<E>,
        source: &Source,
        progress: &Progress,
    ) {
        self.measure(pipeline, progress);
        if self.feed.is_some() && !pipeline.is_shown() {
            let is_back = self.reached - pipeline.next() > NEAR && !progress.is_at_end();
            if is_back || self.is_catching_up && self.copied == period {
                return;
            }
        }
        self.copied = period;
        if !pipeline.is_shown() {
            pipeline.show(source).await;
        }
        self.marks = Some(source.marks.clone());
        // The one before goes when the next is there.
        self.feed = None;
        if self.is_catching_up {
            self.ended(pipeline);
        }
    }

    /// Notes whether it is far from the end of the log.
    fn measure<E: Effects>(&mut self, pipeline: &Pipeline<E>, progress: &Progress) {
        let most = if self.is_catching_up { FAR / 2 } else { FAR };
        let behind = progress.behind();
        if self.is_catching_up == (behind > most) {
            return;
        }
        self.is_catching_up = behind > most;
        let (topic, partition) = pipeline.partition().parts();
        if self.is_catching_up {
            tracing::info!(
                topic,
                partition,
                behind,
                "far behind: clients see the partition only every {COPY_EVERY} s until it has caught up"
            );
        } else {
            tracing::info!(
                topic,
                partition,
                behind,
                "caught up: clients see each change of the partition"
            );
        }
    }

    /// Whether clients see something of a pipeline that has ended, or is not shown now.
    pub(crate) fn is_shown(&self) -> bool {
        self.feed.is_some()
    }

    /// What the next pipeline goes on with.
    pub(crate) fn marks(&self) -> Option<Arc<MarkKeeper>> {
        self.marks.clone()
    }

    /// The pipeline is not shown any more; what it showed stays.
    pub(crate) fn ended<E: Effects>(&mut self, pipeline: &mut Pipeline<E>) {
        if let Some(feed) = pipeline.hide() {
            (self.feed, self.reached) = (Some(feed), pipeline.next());
        }
    }
}
