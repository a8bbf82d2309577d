//! What survives: the Raft log with the vote, and checkpoints of the state. Thin; takes no decisions.
