//! Texts that many devices have in common, kept once: less memory, and a comparison
//! that finds its text in the processor's cache.

use std::collections::HashSet;
use std::sync::Arc;

/// So many are kept before those that nobody has any more are dropped.
const FEW: usize = 1_000;

/// The texts of one partition.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashSet<Arc<str>>,
    /// How many were still in use the last time.
    in_use: usize,
}

impl Names {
    /// Puts the common copy in the place of `text`.
    pub(crate) fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.known.get(text) {
            text.clone_from(known);
            return;
        }
        // Devices choose some of them: what has passed must not stay.
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
    fn equal_texts_are_one() {
        let mut names = Names::default();
        let [mut one, mut same]: [Arc<str>; 2] = ["celsius".into(), "celsius".into()];
        names.share(&mut one);
        names.share(&mut same);
        assert!(Arc::ptr_eq(&one, &same));
    }

    #[test]
    fn what_nobody_has_any_more_goes() {
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
