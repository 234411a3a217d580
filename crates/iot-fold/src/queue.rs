//! Devices ordered by their last message, the oldest at the front. A record costs the same
//! for any number of devices: its device moves to the end, and only the front is checked.

/// Index that stands for no neighbour, or for the front and the end of an empty queue.
const NONE: usize = usize::MAX;

/// A device in the queue: its neighbours, and the time of its last message.
#[derive(Debug, Clone, Copy)]
struct Link {
    previous: usize,
    next: usize,
    time: i64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    front: usize,
    end: usize,
    /// Indexed by device; `None` if the device is not in the queue.
    links: Vec<Option<Link>>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            front: NONE,
            end: NONE,
            links: Vec::new(),
        }
    }

    /// The device whose last message is the oldest, and the time of that message.
    pub(crate) fn front(&self) -> Option<(usize, i64)> {
        let link = (*self.links.get(self.front)?)?;
        Some((self.front, link.time))
    }

    /// Adds a device that is not in the queue.
    pub(crate) fn push_back(&mut self, at: usize, time: i64) {
        if self.links.len() <= at {
            self.links.resize(at + 1, None);
        }
        let previous = std::mem::replace(&mut self.end, at);
        match self.link(previous) {
            Some(link) => link.next = at,
            None => self.front = at,
        }
        self.links[at] = Some(Link {
            previous,
            next: NONE,
            time,
        });
    }

    /// Does nothing if the device is not in the queue.
    pub(crate) fn remove(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at).and_then(Option::take) else {
            return;
        };
        match self.link(link.previous) {
            Some(previous) => previous.next = link.next,
            None => self.front = link.next,
        }
        match self.link(link.next) {
            Some(next) => next.previous = link.previous,
            None => self.end = link.previous,
        }
    }

    /// Lowers the times that are greater than this one.
    pub(crate) fn lower(&mut self, most: i64) {
        for link in self.links.iter_mut().flatten() {
            link.time = link.time.min(most);
        }
    }

    fn link(&mut self, at: usize) -> Option<&mut Link> {
        self.links.get_mut(at)?.as_mut()
    }
}
