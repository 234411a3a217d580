//! Texts that many devices share are kept once. That takes less memory, and a comparison
//! finds its text in the processor's cache.

use std::collections::HashSet;
use std::sync::Arc;

/// Unused texts are dropped when there are more than so many.
const FEW: usize = 1_000;

/// The texts of one partition.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashSet<Arc<str>>,
    /// How many were in use when unused ones were last dropped.
    in_use: usize,
}

impl Names {
    /// Replaces `text` by the shared copy.
    pub(crate) fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.known.get(text) {
            text.clone_from(known);
            return;
        }
        // Devices choose some of the texts: unused ones must not stay.
        if self.known.len() >= FEW.max(2 * self.in_use) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.in_use = self.known.len();
        }
        self.known.insert(text.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_one_copy() {
        let mut names = Names::default();
        let [mut one, mut same]: [Arc<str>; 2] = ["celsius".into(), "celsius".into()];
        names.share(&mut one);
        names.share(&mut same);
        assert!(Arc::ptr_eq(&one, &same));
    }

    #[test]
    fn unused_texts_are_dropped() {
        let mut names = Names::default();
        let mut kept = Vec::new();
        for number in 0..10 * FEW {
            let mut text = Arc::from(format!("unit {number}"));
            names.share(&mut text);
            if number % 10 == 0 {
                kept.push(text);
            }
        }
        assert!(names.known.len() <= 3 * kept.len(), "{}", names.known.len());
        assert!(kept.iter().all(|text| names.known.contains(text)));
    }
}
