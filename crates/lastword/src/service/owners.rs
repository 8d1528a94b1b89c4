//! Who waits, who runs, and in which state each is. Pure; a cache of what is on disk.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::lifecycle::{Action, Input, Machine, Row, Sight, State, found};

/// All executions that this service owns.
#[derive(Debug)]
pub(super) struct Owners {
    /// Executions that run at a time, at most.
    concurrency: usize,
    machines: HashMap<Uuid, Machine>,
    /// Higher priorities first, then the older ones: their ids are smaller.
    queue: BTreeSet<(Reverse<i32>, Uuid)>,
    priorities: BTreeMap<Uuid, i32>,
    /// Places in the queue for requests that are on their way to the disk.
    reserved: usize,
    /// No turns are given.
    paused: bool,
}

impl Owners {
    pub(super) fn new(concurrency: usize) -> Owners {
        Owners {
            concurrency,
            machines: HashMap::new(),
            queue: BTreeSet::new(),
            priorities: BTreeMap::new(),
            reserved: 0,
            paused: false,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Those that have had their turn and have not ended.
    pub(super) fn running(&self) -> usize {
        self.machines.len() - self.queue.len()
    }

    pub(super) fn owns(&self, id: Uuid) -> bool {
        self.machines.contains_key(&id)
    }

    #[cfg(test)]
    pub(super) fn state(&self, id: Uuid) -> Option<State> {
        self.machines.get(&id).map(|machine| machine.state())
    }

    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Sets up to `wanted` places in a queue of `room` aside, until [`Owners::release`]. Returns how many.
    pub(super) fn reserve(&mut self, wanted: usize, room: usize) -> usize {
        let reserved = wanted.min(room.saturating_sub(self.waiting() + self.reserved));
        self.reserved += reserved;
        reserved
    }

    pub(super) fn release(&mut self, reserved: usize) {
        self.reserved = self.reserved.saturating_sub(reserved);
    }

    /// One that was just accepted.
    pub(super) fn accepted(&mut self, id: Uuid, priority: i32) {
        if !self.owns(id) {
            self.machines.insert(id, Machine::queued());
            self.line_up(id, priority);
        }
    }

    fn line_up(&mut self, id: Uuid, priority: i32) {
        self.queue.insert((Reverse(priority), id));
        self.priorities.insert(id, priority);
    }

    fn leave_queue(&mut self, id: Uuid) {
        if let Some(priority) = self.priorities.remove(&id) {
            self.queue.remove(&(Reverse(priority), id));
        }
    }

    /// The next one whose turn it is, if there is room.
    pub(super) fn turn(&mut self) -> Option<(Uuid, &'static [Action])> {
        if self.paused || self.running() >= self.concurrency {
            return None;
        }
        let (_, id) = *self.queue.first()?;
        Some((id, self.on(id, Input::Turn)))
    }

    /// An input for one that is owned; nothing happens for others.
    pub(super) fn on(&mut self, id: Uuid, input: Input) -> &'static [Action] {
        let Some(machine) = self.machines.get_mut(&id) else { return &[] };
        let actions = machine.on(input);
        let machine = *machine;
        if machine.state() != State::Queued {
            self.leave_queue(id);
        }
        if machine.is_over() {
            self.machines.remove(&id);
        }
        actions
    }

    /// What to do with an execution that was found. Nothing for one that is owned: its owner knows better.
    pub(super) fn found(&mut self, id: Uuid, priority: i32, row: Row, sight: Sight) -> &'static [Action] {
        if self.owns(id) {
            return &[];
        }
        let (machine, actions) = found(row, sight);
        if let Some(machine) = machine {
            self.machines.insert(id, machine);
            if machine.state() == State::Queued {
                self.line_up(id, priority);
            }
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_priority_first_then_the_older_one() {
        let mut owners = Owners::new(10);
        let ids: Vec<Uuid> = (1..=4).map(Uuid::from_u128).collect();
        for (id, priority) in [(ids[2], 0), (ids[0], 0), (ids[3], 5), (ids[1], -1)] {
            owners.accepted(id, priority);
        }
        owners.accepted(ids[1], 100);
        let turns: Vec<Uuid> = std::iter::from_fn(|| owners.turn()).map(|(id, _)| id).collect();
        assert_eq!(turns, [ids[3], ids[0], ids[2], ids[1]]);
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        let mut owners = Owners::new(2);
        let ids: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        ids.iter().for_each(|id| owners.accepted(*id, 0));
        assert_eq!(
            (owners.turn().map(|turn| turn.0), owners.turn().map(|turn| turn.0)),
            (Some(ids[0]), Some(ids[1]))
        );
        assert_eq!((owners.turn(), owners.waiting(), owners.running()), (None, 1, 2));
        // One that runs already takes room, too.
        owners.on(ids[0], Input::Failed);
        owners.found(Uuid::from_u128(9), 0, Row::Running, Sight::Alive);
        assert_eq!(owners.turn(), None);
        owners.on(ids[1], Input::NotBuilt);
        owners.on(ids[1], Input::Kept);
        assert!(!owners.owns(ids[1]));
        owners.pause(true);
        assert_eq!(owners.turn(), None);
        owners.pause(false);
        assert_eq!(owners.turn().map(|turn| turn.0), Some(ids[2]));
    }

    #[test]
    fn a_cancelled_one_leaves_the_queue() {
        let mut owners = Owners::new(1);
        let id = Uuid::from_u128(1);
        owners.accepted(id, 0);
        assert_eq!(owners.on(id, Input::Cancel), [Action::KeepUnstarted]);
        assert_eq!((owners.waiting(), owners.turn()), (0, None));
        owners.on(id, Input::Kept);
        assert_eq!((owners.running(), owners.on(id, Input::Over)), (0, &[][..]));
    }

    #[test]
    fn what_is_owned_is_not_found() {
        let mut owners = Owners::new(1);
        let id = Uuid::from_u128(1);
        owners.accepted(id, 0);
        assert_eq!(owners.found(id, 0, Row::Running, Sight::Nothing), []);
        assert_eq!(owners.state(id), Some(State::Queued));
    }
}
