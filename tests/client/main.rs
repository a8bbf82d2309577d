//! The client and the commands that use it, against a server that plays what the test wrote down.

mod calls;
mod commands;
mod history;
mod keep_alive;
mod scripted;
mod watch;
