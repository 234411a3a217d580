//! Which messages of a batch are done, and how many the next request may have.

/// Larger requests are tried again after this many batches.
const GROWS_AFTER: u32 = 100;

/// Progress of a batch, and how many messages a request may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// Messages that are done: confirmed or rejected.
    pub(super) through: usize,
    /// Messages that were rejected.
    pub(super) refused: usize,
    /// How many messages the next request may have.
    pub(super) at_once: usize,
    /// How many the first request of a batch may have.
    first: usize,
    /// Once a request was too large: the largest that was not.
    fitting: Option<usize>,
    /// Batches since `first` changed.
    batches: u32,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            through: 0,
            refused: 0,
            at_once: usize::MAX,
            first: usize::MAX,
            fitting: None,
            batches: 0,
        }
    }

    /// Starts the next batch: with a smaller request if those of the last were too large
    /// without a single message being so, and with a larger one only after many batches.
    pub(super) fn begin(&mut self) {
        if let Some(fitting) = self.fitting.take()
            && self.refused == 0
        {
            (self.first, self.batches) = (fitting.max(1), 0);
        }
        self.batches += 1;
        if self.batches >= GROWS_AFTER {
            (self.first, self.batches) = (self.first.saturating_mul(2), 0);
        }
        (self.through, self.refused, self.at_once) = (0, 0, self.first);
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.through += count;
        self.fitting = self.fitting.map(|fitting| fitting.max(count));
        self.at_once = self.at_once.saturating_mul(2).min(self.first);
    }

    /// A request of `count` messages was rejected.
    pub(super) fn halve(&mut self, count: usize) {
        self.at_once = count / 2;
        self.fitting.get_or_insert(0);
    }

    /// The next message is rejected by itself.
    pub(super) fn refuse(&mut self) {
        self.through += 1;
        self.refused += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a batch of messages of these sizes to a topic that takes `most` at once; returns
    /// the sizes of the requests, and how many messages were rejected.
    fn send(progress: &mut Progress, sizes: &[usize], most: usize) -> (Vec<usize>, usize) {
        let mut requests = Vec::new();
        progress.begin();
        while progress.through < sizes.len() {
            let count = progress.at_once.clamp(1, sizes.len() - progress.through);
            requests.push(count);
            let size: usize = sizes[progress.through..][..count].iter().sum();
            if size <= most {
                progress.sent(count);
            } else if count > 1 {
                progress.halve(count);
            } else {
                progress.refuse();
            }
        }
        (requests, progress.refused)
    }

    #[test]
    fn a_message_that_is_too_large_is_isolated() {
        let mut progress = Progress::new();
        let sizes = [1, 1, 1, 1, 1, 99, 1, 1];
        let (requests, refused) = send(&mut progress, &sizes, 10);
        assert_eq!((requests, refused), (vec![8, 4, 4, 2, 1, 2, 1, 1, 1], 1));
        assert_eq!(send(&mut progress, &[1; 8], 10), (vec![8], 0));
    }

    #[test]
    fn requests_shrink_when_too_large_and_grow_again_later() {
        let mut progress = Progress::new();
        assert_eq!(send(&mut progress, &[1; 8], 4).0, [8, 4, 4]);
        for _ in 1..GROWS_AFTER {
            assert_eq!(send(&mut progress, &[1; 8], 4).0, [4, 4]);
        }
        assert_eq!(send(&mut progress, &[1; 8], 8).0, [8]);
    }
}
