//! Groups of cases that share a configuration, and so can run on one machine.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::boot_snapshot::BootFiles;
use super::case::Case;

/// Cases of one fixture, or several cases with a fixture each.
#[derive(Debug)]
pub(super) struct Group {
    /// Cases that workers take, by number, in order. It changes only while the group has no worker.
    pub(super) batch: Vec<usize>,
    /// Number of workers that run cases or take the boot snapshot.
    pub(super) workers: usize,
    /// True if the cases share a configuration.
    pub(super) shares_fixture: bool,
    /// False if a worker was started for the group, which had no other one, and no result has come since.
    pub(super) has_progress: bool,
    /// Boot snapshot that the cases start from.
    pub(super) boot: BootState,
    /// Number of workers that ended while they took the boot snapshot.
    pub(super) failed_boots: usize,
}

/// State of the boot snapshot of a group.
#[derive(Debug)]
pub(super) enum BootState {
    /// There is none.
    None,
    /// No worker has found out yet if there is one.
    Unknown,
    /// A worker boots the guest, if the configuration has a snapshot.
    Running(BootFiles),
    /// The snapshot is complete.
    Ready(BootFiles),
}

impl Group {
    fn new(case: &Case) -> Self {
        let boot = if case.may_have_snapshot() { BootState::Unknown } else { BootState::None };
        Self {
            batch: Vec::new(),
            workers: 0,
            shares_fixture: true,
            has_progress: true,
            boot,
            failed_boots: 0,
        }
    }

    /// Returns true if the group is a single case that starts from no snapshot.
    pub(super) const fn is_single(&self) -> bool {
        self.batch.len() == 1 && matches!(self.boot, BootState::None)
    }

    /// Returns true while other workers have to wait for the one that takes the boot snapshot.
    pub(super) const fn is_booting(&self) -> bool {
        matches!(self.boot, BootState::Running(_))
    }
}

/// Returns the groups, in the order of their first cases, and the group of each case.
pub(super) fn groups(cases: &[Case]) -> (Vec<Group>, Vec<usize>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of = Vec::with_capacity(cases.len());
    let mut known = HashMap::new();
    for (number, case) in cases.iter().enumerate() {
        let new = groups.len();
        let index = match case.fixture_key().map(|key| known.entry(key)) {
            Some(Entry::Occupied(entry)) => *entry.get(),
            Some(Entry::Vacant(entry)) => *entry.insert(new),
            None => new,
        };
        if index == new {
            groups.push(Group::new(case));
        }
        if let Some(group) = groups.get_mut(index) {
            group.batch.push(number);
        }
        group_of.push(index);
    }
    (groups, group_of)
}
