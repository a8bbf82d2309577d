//! What operators say about scopes, and what it changes.

use std::collections::BTreeMap;

use roster_storage::brake::{BrakeMode, Scope};
use roster_storage::names::AppName;

use super::Brake;

impl Brake {
    /// An operator's words, all that are in force.
    pub fn set_words(&mut self, words: BTreeMap<Scope, BrakeMode>) {
        if self.words != words {
            self.words = words;
            self.grew.extend(self.of_apps.keys().flatten().cloned());
        }
    }

    /// The word about an app, or about sessions without any: its own before the one about all.
    pub(super) fn word(&self, app: Option<&AppName>) -> Option<BrakeMode> {
        if self.words.is_empty() {
            return None;
        }
        let own = app.and_then(|app| self.words.get(&Scope::App(app.clone())));
        own.or_else(|| self.words.get(&Scope::All)).copied()
    }

    pub(super) fn is_released(&self, scope: &Scope) -> bool {
        let word = match scope {
            Scope::All | Scope::Node(_) => self.word(None),
            Scope::App(app) => self.word(Some(app)),
        };
        word == Some(BrakeMode::Release)
    }

    /// What an operator lets go is no loss that all must brake for.
    pub(super) fn overdue_and_released(&self) -> u64 {
        let released = self.words.iter().filter(|(_, mode)| **mode == BrakeMode::Release);
        let tallies = released.filter_map(|(scope, _)| self.tally(scope.app()?));
        tallies.map(|tally| tally.overdue).sum()
    }
}
