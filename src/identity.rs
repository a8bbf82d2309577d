//! Who this node is, on disk: `identity.json` in the data folder, written before anything else and
//! fsynced. It binds the folder to a node id, a disk id and, once the cluster is made, a cluster id,
//! so that a folder under the wrong node, a wiped disk or a foreign cluster is noticed (invariant
//! S14).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use roster_storage::names::NodeId;
use serde::{Deserialize, Serialize};

use crate::config::ClusterList;

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    pub node_id: NodeId,
    /// Random, made with the folder: this disk, not another one that once had the same node id.
    pub disk_id: String,
    /// `None` until the cluster was made.
    pub cluster: Option<ClusterIdentity>,
    /// Set once the log's first file is durable and before a vote or an entry is in it: from then on
    /// a folder without a log has lost it, and is not taken for a new one.
    pub log_begun: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    pub id: String,
    /// The list that this node had when it was made or joined.
    pub made_from: ClusterList,
    /// Whether this disk made it, and so may make its first entry. A disk that takes the maker's
    /// place may not: the cluster has its entries from the old one.
    pub made_here: bool,
}

impl Identity {
    /// That of a folder which another process may use; `None` if there is none, or none that can be
    /// read.
    pub fn seen_in(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }
}

/// The data folder, locked for this process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("--data-dir {path}: {source}; it must be a folder that this user can write to")]
    Unusable { path: String, source: io::Error },
    #[error(
        "--data-dir {0}: another roster process uses this folder; stop it or name another folder"
    )]
    Locked(String),
    #[error(
        "--data-dir {path}: this folder belongs to node {found}, not to node {wanted} (--node-id); \
         name the right folder"
    )]
    OtherNode { path: String, found: NodeId, wanted: NodeId },
    #[error(
        "{path}: the file is damaged ({problem}); put it back from a backup, or move the folder \
         away and start with an empty one and --replace-disk: the other nodes have the data"
    )]
    Damaged { path: String, problem: String },
    #[error(
        "--data-dir {path}: there is data but no {FILE}; put the file back, or move the folder away \
         and start with an empty one and --replace-disk: the other nodes have the data"
    )]
    Missing { path: String },
}

impl DataDir {
    /// Makes the folder if need be and locks it.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let unusable =
            |source| IdentityError::Unusable { path: path.display().to_string(), source };
        fs::create_dir_all(path).map_err(unusable)?;
        let lock = File::create(path.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(IdentityError::Locked(path.display().to_string()))
            }
            Err(fs::TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity in this folder; a new one in a new folder.
    pub fn identity(&self, node_id: NodeId) -> Result<Identity, IdentityError> {
        let path = self.path.display().to_string();
        let bytes = match fs::read(self.path.join(FILE)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.make_identity(node_id),
            Err(source) => return Err(IdentityError::Unusable { path, source }),
        };
        let damaged = |problem: String| IdentityError::Damaged {
            path: self.path.join(FILE).display().to_string(),
            problem,
        };
        let identity: Identity =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if identity.format != FORMAT {
            return Err(damaged(format!("its format is {}, not {FORMAT}", identity.format)));
        }
        if identity.node_id != node_id {
            return Err(IdentityError::OtherNode {
                path,
                found: identity.node_id,
                wanted: node_id,
            });
        }
        Ok(identity)
    }

    fn make_identity(&self, node_id: NodeId) -> Result<Identity, IdentityError> {
        let path = self.path.display().to_string();
        let unusable = |source| IdentityError::Unusable { path: path.clone(), source };
        let others = fs::read_dir(&self.path)
            .and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>())
            .map_err(unusable)?;
        // A crash while the first identity was written leaves only its temporary file.
        let known = [LOCK.to_owned(), format!("{FILE}.tmp"), "lost+found".to_owned()];
        if others.iter().any(|name| !known.iter().any(|k| name == k.as_str())) {
            return Err(IdentityError::Missing { path: path.clone() });
        }
        let identity = Identity {
            format: FORMAT,
            node_id,
            disk_id: random_id().map_err(unusable)?,
            cluster: None,
            log_begun: false,
        };
        self.save(&identity).map_err(unusable)?;
        Ok(identity)
    }

    /// Writes aside, fsyncs, renames, fsyncs the folder.
    pub fn save(&self, identity: &Identity) -> io::Result<()> {
        let aside = self.path.join(format!("{FILE}.tmp"));
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec_pretty(identity)?)?;
        file.sync_all()?;
        fs::rename(&aside, self.path.join(FILE))?;
        File::open(&self.path)?.sync_all()
    }
}

/// 128 random bits in hexadecimal.
pub fn random_id() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_identity_and_refuses_another_node() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = DataDir::open(dir.path()).expect("opens").identity(1).expect("is made");
        let data = DataDir::open(dir.path()).expect("opens again");
        assert_eq!(data.identity(1).expect("is read"), first);
        assert!(matches!(data.identity(2), Err(IdentityError::OtherNode { found: 1, .. })));
    }

    #[test]
    fn two_processes_do_not_share_a_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let _held = DataDir::open(dir.path()).expect("opens");
        assert!(matches!(DataDir::open(dir.path()), Err(IdentityError::Locked(_))));
    }

    #[test]
    fn data_without_an_identity_is_refused_and_not_taken_for_a_new_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("checkpoint-1.roster"), b"x").expect("written");
        let data = DataDir::open(dir.path()).expect("opens");
        assert!(matches!(data.identity(1), Err(IdentityError::Missing { .. })));
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let data = DataDir::open(dir.path()).expect("opens");
        fs::write(dir.path().join(FILE), b"{").expect("written");
        let error = data.identity(1).expect_err("is refused").to_string();
        assert!(error.contains("identity.json") && error.contains("--replace-disk"), "{error}");
    }
}
