//! openraft's own suite for stores, run against ours.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use roster_storage::disk::{LogOptions, LogStore, StateMachine};
use roster_storage::raft_types::TypeConfig;
use tempfile::TempDir;

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, repairs) =
            LogStore::open(&folder.path().join("log"), LogOptions::default()).expect("a log");
        assert!(repairs.is_empty());
        let checkpoints = folder.path().join("checkpoints");
        let machine = StateMachine::open(&checkpoints, Arc::new(())).expect("a state machine");
        Ok((folder, log, machine))
    }
}

#[tokio::test]
async fn the_stores_do_what_openraft_asks_of_them() {
    Suite::test_all(Stores).await.expect("the suite passes");
}
