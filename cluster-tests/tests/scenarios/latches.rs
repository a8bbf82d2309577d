//! Locks and elections: one holds, in the order in which they asked, whatever dies meanwhile.

mod elections;
mod fencing;
mod queue;
