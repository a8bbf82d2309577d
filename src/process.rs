//! What this process uses, as the kernel counts it.

use std::fs;

/// CPU time and memory of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
}

/// Zero where the kernel does not tell.
pub fn usage() -> Usage {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Usage {
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        memory_bytes: resident_bytes().unwrap_or(0),
    }
}

fn resident_bytes() -> Option<u64> {
    bytes_in(&own_status()?, "VmRSS:")
}

/// What else `/proc/self/status` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub virtual_bytes: u64,
    pub threads: u64,
}

/// `None` where the kernel does not tell.
pub fn status() -> Option<Status> {
    let status = own_status()?;
    Some(Status {
        virtual_bytes: bytes_in(&status, "VmSize:")?,
        threads: field(&status, "Threads:")?.parse().ok()?,
    })
}

fn own_status() -> Option<String> {
    fs::read_to_string("/proc/self/status").ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Sizes are in kB there.
fn bytes_in(status: &str, name: &str) -> Option<u64> {
    let kib: u64 = field(status, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// How many files and connections are open; `None` where the kernel does not tell.
pub fn open_files() -> Option<u64> {
    // One of them is the folder that is read here.
    let open = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(open.saturating_sub(1))
}

/// When this process started, seconds since 1970; `None` where the kernel does not tell.
pub fn started_at_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in brackets, may hold anything.
    let after_name = stat.rsplit_once(')')?.1;
    let ticks: f64 = after_name.split_whitespace().nth(STARTED_AFTER_NAME)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = field(&system, "btime ")?.parse().ok()?;
    Some(booted + ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// The place of the start among the fields of `/proc/self/stat` after the program's name.
const STARTED_AFTER_NAME: usize = 19;

/// How many files this process may have open; `None` without a limit.
pub fn file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Takes as many file descriptors as the system lets this process have: each connection is one.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the limit of open files stays as it is: {e}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process() {
        assert!(usage().memory_bytes > 0);
        assert!(status().is_some_and(|status| status.threads > 0 && status.virtual_bytes > 0));
        assert!(open_files().is_some_and(|open| open > 0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let started = started_at_seconds().expect("it started");
        let day = 86_400.0;
        assert!((now - day..now + 10.0).contains(&started), "{started}");
    }
}
