//! What the figures were measured on.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// A load above which the figures are not those of an idle machine.
const BUSY_FROM: f64 = 0.5;

#[derive(Serialize)]
pub struct Machine {
    cores: usize,
    processor: String,
    memory_gib: f64,
    kernel: String,
    /// Of the data.
    file_system: String,
    folder: String,
    /// Processes that ran or waited for the disk at the same time, over the last minute before.
    pub load_before: f64,
}

impl Machine {
    /// `folder` is where the servers write.
    pub fn look(folder: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
        let memory = read("/proc/meminfo");
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = kib.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            processor: processor.unwrap_or("unknown").trim_matches([' ', '\t', ':']).to_owned(),
            memory_gib: kib.unwrap_or(0.0) / 1024.0 / 1024.0,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(folder).unwrap_or_else(|| "unknown".into()),
            folder: folder.display().to_string(),
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// It had other work to do before the measuring began.
    pub fn is_busy(&self) -> bool {
        self.load_before > BUSY_FROM
    }

    /// Its files are memory, so nothing is durable there and a sync costs nothing.
    pub fn writes_to_memory(&self) -> bool {
        ["tmpfs", "ramfs"].contains(&self.file_system.as_str())
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cores ({}), {:.0} GiB, Linux {}, data on {} under {}",
            self.cores, self.processor, self.memory_gib, self.kernel, self.file_system, self.folder
        )
    }
}

/// The type of the file system that holds a folder: that of the longest mount point above it.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(point, _)| folder.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}
