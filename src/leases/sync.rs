//! What leases are synchronized by. A test that walks through every interleaving includes
//! [`super::lease`] with another such module beside it.

pub use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

pub use parking_lot::Mutex;
