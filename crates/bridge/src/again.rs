//! Messages that have to be given to the producer again, at the next tick.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::ring::Seq;

/// In the order of arrival, and not overtaken by later ones of the same topic.
#[derive(Debug, Default)]
pub(crate) struct Again {
    seqs: BTreeSet<Seq>,
    topics: HashSet<Arc<str>>,
}

impl Again {
    pub(crate) fn insert(&mut self, seq: Seq, topic: &Arc<str>) {
        self.seqs.insert(seq);
        self.topics.insert(topic.clone());
    }

    /// Whether messages of the topic have to wait here, to keep their order.
    pub(crate) fn holds(&self, topic: &Arc<str>) -> bool {
        self.topics.contains(topic)
    }

    /// Takes all, oldest first.
    pub(crate) fn take(&mut self) -> BTreeSet<Seq> {
        std::mem::take(self).seqs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_messages_of_a_topic_join_the_earlier_ones_in_order() {
        let (mut again, topic): (Again, Arc<str>) = (Again::default(), "t.p".into());
        assert!(!again.holds(&topic));
        again.insert(7, &topic);
        again.insert(3, &topic);
        assert!(again.holds(&topic) && !again.holds(&"t.q".into()));
        assert_eq!(again.take().into_iter().collect::<Vec<_>>(), [3, 7]);
        assert!(!again.holds(&topic));
    }
}
