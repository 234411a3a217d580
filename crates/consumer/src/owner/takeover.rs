//! What clients see of a partition that is taken over: its follower, until the owner has come as
//! far.

use std::sync::Arc;

use crate::follower::{Continued, Following, Left};
use crate::kafka::marks::MarkKeeper;
use crate::kafka::progress::Progress;
use crate::live::Source;
use crate::pipeline::{Effects, Pipeline};
use crate::showing::{NEAR, Showing};

/// What clients see.
pub(super) struct Takeover {
    follower: Option<Following>,
    showing: Showing,
    /// Nobody: this replica serves no clients.
    is_hidden: bool,
}

impl Takeover {
    pub(super) fn new(follower: Option<Following>, is_hidden: bool) -> Self {
        Self {
            follower,
            showing: Showing::default(),
            is_hidden,
        }
    }

    /// What the owner's pipeline goes on with.
    pub(super) fn marks(&self) -> Option<Arc<MarkKeeper>> {
        match &self.follower {
            Some(follower) => follower.marks(),
            None => self.showing.marks(),
        }
    }

    /// Whether a follower shows the partition, and tells what clients should know about it.
    pub(super) fn is_followed(&self) -> bool {
        self.follower.is_some()
    }

    /// Whether clients see something of a pipeline that has ended.
    pub(super) fn is_shown(&self) -> bool {
        self.showing.is_shown()
    }

    /// What was shown is not of this log.
    pub(super) async fn forget(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.stop().await;
        }
        self.showing = Showing::default();
    }

    /// Shows the owner's pipeline once it has come as far as its follower.
    pub(super) async fn turn_to<E: Effects>(
        &mut self,
        pipeline: &mut Pipeline<E>,
        source: &Source,
        progress: &Progress,
    ) {
        if self.is_hidden {
            return;
        }
        let is_at_end = progress.is_at_end();
        if let Some(follower) = &self.follower {
            let ahead = follower.shown().map_or(0, |shown| shown - pipeline.next());
            if ahead > NEAR && !is_at_end {
                return;
            }
            // The hub turns to it where the follower is then: none of them waits for the other.
            if !pipeline.is_shown() {
                pipeline.show(source).await;
            }
            if ahead > 0 && !is_at_end {
                return;
            }
        }
        if let Some(follower) = self.follower.take() {
            self.showing = follower.stop().await;
        }
        self.showing.turn_to(pipeline, source, progress).await;
    }

    /// The pipeline has ended.
    pub(super) fn ended<E: Effects>(&mut self, pipeline: &mut Pipeline<E>) {
        self.showing.ended(pipeline);
    }

    /// What stays after the owner; `from` is its state, if a follower can continue with it.
    pub(super) async fn end(mut self, from: Option<Continued>) -> Left {
        // The hub may have turned to the owner: then it shows nothing of the follower any more.
        if self.showing.is_shown()
            && let Some(follower) = self.follower.take()
        {
            follower.stop().await;
        }
        match self.follower {
            Some(follower) => Left::Following(follower),
            None => Left::Shown {
                showing: self.showing,
                from: from.map(Box::new),
            },
        }
    }
}
