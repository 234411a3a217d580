//! What clients see of a partition while it passes from one pipeline to the next: the one before,
//! as it was, until the next has come as far. The view neither goes back nor blank.

use iot_live::Feed;

use crate::live::Source;
use crate::pipeline::{Effects, Pipeline};

/// A partition as clients see it.
#[derive(Default)]
pub(crate) struct Showing {
    /// Of a pipeline that has ended.
    feed: Option<Feed>,
    /// What is shown comes from the records before this offset.
    reached: i64,
}

impl Showing {
    /// Shows the pipeline as soon as it has come as far as what was shown, or as the log goes.
    pub(crate) async fn turn_to<E: Effects>(
        &mut self,
        pipeline: &mut Pipeline<E>,
        source: &Source,
        is_at_end: bool,
    ) {
        let is_behind = pipeline.next() < self.reached && !is_at_end;
        if !pipeline.is_shown() && (self.feed.is_none() || !is_behind) {
            pipeline.show(source).await;
            // The one before goes when the next is there.
            self.feed = None;
        }
    }

    /// The pipeline has ended; what it showed stays.
    pub(crate) fn ended<E: Effects>(&mut self, pipeline: &mut Pipeline<E>) {
        if let Some(feed) = pipeline.hide() {
            (self.feed, self.reached) = (Some(feed), pipeline.next());
        }
    }
}
