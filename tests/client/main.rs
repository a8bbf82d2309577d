//! The client and the commands that use it, against a server that plays what the test wrote down.

mod bench_scale;
mod calls;
mod commands;
mod demo;
mod help;
mod history;
mod keep_alive;
mod latches;
mod rings;
mod scripted;
mod sessions;
mod settings;
mod shards;
mod watch;
mod who_does_what;
