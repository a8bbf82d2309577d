//! The command line as users and scripts see it: what it prints, and how it ends.

mod dev;
mod exit_codes;
mod help;
mod lists;
mod live;
mod registering;
mod run;
#[allow(dead_code, reason = "tests of the client use the rest of it")]
#[path = "../client/scripted.rs"]
mod scripted;
mod top;
