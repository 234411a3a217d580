//! Who asks: the identity behind a request, and what it may see.

mod identity;

pub use identity::{Identity, Names, Role, Scope};
