//! The messages in flight between MQTT and Kafka, in the order of their arrival.
//!
//! A message leaves the ring, to be acknowledged, only when it and everything
//! before it is confirmed: MQTT requires acknowledgements in the order of the
//! PUBLISH packets (MQTT 5, section 4.6).

use std::collections::VecDeque;

/// The sequence number of a message in the ring: 0, 1, 2, ...
pub(crate) type Seq = u64;

/// A queue whose items are confirmed in any order, and leave in the order in which
/// they came.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    first: Seq,
    slots: VecDeque<Slot<T>>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot<T> {
    item: T,
    bytes: usize,
    confirmed: bool,
}

impl<T> Ring<T> {
    pub(crate) fn new() -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Appends an item that occupies `bytes` of memory.
    pub(crate) fn push(&mut self, item: T, bytes: usize) -> Seq {
        let seq = self.first + self.slots.len() as Seq;
        self.bytes += bytes;
        self.slots.push_back(Slot {
            item,
            bytes,
            confirmed: false,
        });
        seq
    }

    /// The item, if it is in the ring and not confirmed yet.
    pub(crate) fn unconfirmed(&mut self, seq: Seq) -> Option<&mut T> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(index)?;
        (!slot.confirmed).then_some(&mut slot.item)
    }

    /// The item, if it is still in the ring.
    pub(crate) fn get_mut(&mut self, seq: Seq) -> Option<&mut T> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index).map(|slot| &mut slot.item)
    }

    /// All items that are not confirmed yet, oldest first.
    pub(crate) fn all_unconfirmed(&self) -> impl Iterator<Item = (Seq, &T)> {
        let slots = (self.first..).zip(&self.slots);
        slots.filter_map(|(seq, slot)| (!slot.confirmed).then_some((seq, &slot.item)))
    }

    /// Marks an item as confirmed. It stays until those before it are confirmed.
    pub(crate) fn confirm(&mut self, seq: Seq) {
        if let Some(index) = seq.checked_sub(self.first)
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.confirmed = true;
        }
    }

    /// Removes and returns the oldest item, with its number, if it is confirmed.
    pub(crate) fn pop(&mut self) -> Option<(Seq, T)> {
        if !self.slots.front()?.confirmed {
            return None;
        }
        let slot = self.slots.pop_front()?;
        let seq = self.first;
        self.first += 1;
        self.bytes -= slot.bytes;
        Some((seq, slot.item))
    }

    /// The number of the oldest item, or of the next one if the ring is empty.
    pub(crate) fn first(&self) -> Seq {
        self.first
    }

    /// The oldest item. It is unconfirmed if [`Self::pop`] returned nothing.
    pub(crate) fn oldest(&self) -> Option<&T> {
        self.slots.front().map(|slot| &slot.item)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unknown_numbers_are_ignored() {
        let mut ring = Ring::new();
        let seq = ring.push('a', 1);
        ring.confirm(seq + 1);
        assert_eq!(ring.pop(), None);
        ring.confirm(seq);
        assert_eq!(ring.pop(), Some((seq, 'a')));
        ring.confirm(seq);
        assert_eq!(ring.unconfirmed(seq), None);
        assert_eq!(ring.len(), 0);
    }

    proptest! {
        /// Whatever the order of confirmations, each item leaves once, in order,
        /// and not before all earlier ones are confirmed.
        #[test]
        fn items_leave_in_order_once_confirmed(order in Just((0..50u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut ring = Ring::new();
            for item in 0..50u64 {
                prop_assert_eq!(ring.push(item, 10), item);
            }
            let mut left = Vec::new();
            let mut confirmed = std::collections::BTreeSet::new();
            for seq in order {
                ring.confirm(seq);
                confirmed.insert(seq);
                while let Some((_, item)) = ring.pop() {
                    left.push(item);
                }
                let prefix = (0..50).take_while(|seq| confirmed.contains(seq)).count();
                prop_assert_eq!(left.len(), prefix);
                prop_assert_eq!(ring.bytes(), 10 * (50 - prefix));
                let unconfirmed: Vec<_> = ring.all_unconfirmed().map(|(seq, _)| seq).collect();
                let expected: Vec<_> = (0..50).filter(|seq| !confirmed.contains(seq)).collect();
                prop_assert_eq!(unconfirmed, expected);
            }
            prop_assert_eq!(left, (0..50).collect::<Vec<_>>());
        }
    }
}
