//! What clients see of a partition while it passes from one pipeline to the next: the one before,
//! as it was, until the next has come as far. The view neither goes back nor blank.

use tokio::sync::mpsc;

use crate::hub::{Held, Question};
use crate::pipeline::{Effects, Pipeline};

/// A partition as clients see it.
#[derive(Default)]
pub(crate) struct Showing {
    held: Option<Held>,
    /// What is shown comes from the records before this offset.
    reached: i64,
}

impl Showing {
    /// Shows the pipeline as soon as it has come as far as what was shown, or as the log goes.
    pub(crate) async fn turn_to<E: Effects>(
        &mut self,
        pipeline: &mut Pipeline<E>,
        questions: &mpsc::Sender<Question>,
        is_at_end: bool,
    ) {
        let is_behind = pipeline.next() < self.reached && !is_at_end;
        if !pipeline.is_shown() && (self.held.is_none() || !is_behind) {
            // The one before goes when the next is there.
            self.held = Some(pipeline.show(questions).await);
        }
    }

    /// The pipeline has ended; what it showed stays.
    pub(crate) fn ended<E: Effects>(&mut self, pipeline: &Pipeline<E>) {
        if pipeline.is_shown() {
            self.reached = pipeline.next();
        }
    }
}
