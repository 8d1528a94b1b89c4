//! The lifecycle against a world where everything goes wrong: a disk that refuses, or takes something and says that it didn't; a
//! server that dies between any two steps, and in the middle of one; a backend whose sandboxes die or vanish, and which tells
//! of an end twice, or late, or of executions that nobody knows; clients that repeat themselves and cancel at any moment.
//!
//! What the real service does on threads is done here one step at a time, each step chosen by a seed. Whatever the seed:
//! G1 an end is visible only when its transcript is whole; G2 every accepted execution ends once and is started at most once; G4
//! complete means that no byte is missing; G6 nobody's memory is needed; G8 nothing is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use uuid::Uuid;

use super::lifecycle::{Action, Input, Row, Sight};
use super::owners::Owners;

const SEEDS: u64 = 2_000;
const STEPS: u32 = 250;
/// Steps without new trouble after which all must have ended.
const CALM_STEPS: u32 = 20_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True so many times in a hundred.
    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// An execution on disk.
#[derive(Clone, Debug)]
struct Record {
    row: Row,
    key: u64,
    priority: i32,
    end: Option<End>,
    /// As the feed of events has it.
    statuses: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    started: bool,
    complete: bool,
    bytes: u32,
}

/// An execution in the backend.
#[derive(Clone, Copy, Debug, Default)]
struct Sandbox {
    /// No two are the same one.
    number: u32,
    /// Its supervisor lives.
    alive: bool,
    /// Who has built it lives, too.
    starter: bool,
    handed_over: bool,
    asked_to_stop: bool,
    sealed: bool,
    said: u32,
    captured: u32,
}

/// Somebody at work on one execution, action by action.
#[derive(Clone, Debug)]
struct Thread {
    id: Uuid,
    todo: VecDeque<Action>,
    /// The sandbox that it has built.
    holds: Option<u32>,
}

struct World {
    random: Random,
    disk: BTreeMap<Uuid, Record>,
    sandboxes: BTreeMap<Uuid, Sandbox>,
    /// What is lost when the server dies.
    owners: Owners,
    threads: Vec<Thread>,
    /// Ids in order, as time would give them.
    ids: u128,
    starts: BTreeMap<Uuid, u32>,
    cancelled: BTreeSet<Uuid>,
    trouble: bool,
    sandboxes_made: u32,
    ended: u32,
    crashes: u32,
}

const CONCURRENCY: usize = 3;

impl World {
    fn new(seed: u64) -> World {
        World {
            random: Random(seed),
            disk: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            owners: Owners::new(CONCURRENCY),
            threads: Vec::new(),
            ids: 0,
            starts: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            trouble: true,
            sandboxes_made: 0,
            ended: 0,
            crashes: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(if self.trouble { 100 } else { 70 }) {
            0..25 => self.one_thread(),
            25..40 => self.one_sandbox(),
            40..55 => self.turn(),
            55..65 => self.reconcile(),
            65..70 => self.tell_of_an_end(),
            70..85 => self.submit(),
            85..92 => self.cancel(),
            92..95 => self.kill_a_supervisor(),
            95..97 => self.lose_a_sandbox(),
            _ => self.crash(),
        }
        self.check();
    }

    // What the server does.

    fn turn(&mut self) {
        if let Some((id, actions)) = self.owners.turn() {
            self.begin(id, actions);
        }
    }

    fn begin(&mut self, id: Uuid, actions: &[Action]) {
        if !actions.is_empty() {
            self.threads.push(Thread { id, todo: actions.iter().copied().collect(), holds: None });
        }
    }

    /// One action of one thread is done, and what follows from it is next.
    fn one_thread(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        let n = self.random.below(self.threads.len());
        let Thread { id, ref todo, holds } = self.threads[n];
        let Some(action) = todo.front().copied() else {
            self.threads.remove(n);
            return;
        };
        let Some(input) = self.perform(id, action, holds) else { return };
        let Thread { todo, holds, .. } = &mut self.threads[n];
        todo.pop_front();
        if input == Some(Input::Built) {
            *holds = Some(self.sandboxes_made);
        }
        if let Some(input) = input {
            todo.extend(self.owners.on(id, input));
        }
    }

    /// `None`: not yet.
    fn perform(&mut self, id: Uuid, action: Action, holds: Option<u32>) -> Option<Option<Input>> {
        Some(match action {
            Action::Build => Some(self.build(id)),
            Action::Mark => Some(self.write(|world| world.mark(id), Input::Marked)),
            Action::Go => {
                self.go(id, holds);
                None
            }
            Action::Watch => {
                if self.sight(id) == Sight::Alive {
                    // Looking may fail, too.
                    return (self.trouble && self.random.percent(2)).then_some(Some(Input::Failed));
                }
                let unstarted = |sandbox: &Sandbox| sandbox.sealed && !sandbox.handed_over;
                Some(if self.sandboxes.get(&id).is_some_and(unstarted) {
                    Input::Unstarted
                } else {
                    Input::Over
                })
            }
            Action::Stop => {
                if let Some(sandbox) = self.sandboxes.get_mut(&id) {
                    sandbox.asked_to_stop = true;
                }
                None
            }
            Action::Abandon => {
                if let Some(sandbox) = self.held(id, holds) {
                    assert!(!sandbox.handed_over, "{id}: abandoned after its go");
                    sandbox.alive = false;
                }
                None
            }
            Action::KeepUnstarted => Some(self.write(|world| world.keep_unstarted(id), Input::Kept)),
            Action::KeepEnd => Some(self.write(|world| world.keep_end(id), Input::Kept)),
            Action::Discard => {
                self.discard(id);
                None
            }
        })
    }

    /// A write to a disk that may refuse it, or take it and say that it didn't.
    fn write(&mut self, effect: impl FnOnce(&mut World), then: Input) -> Input {
        let luck = self.random.below(100);
        if self.trouble && luck < 4 {
            return Input::Failed;
        }
        effect(self);
        if self.trouble && luck < 8 { Input::Failed } else { then }
    }

    fn build(&mut self, id: Uuid) -> Input {
        // What is left of a start that got no go makes room for another one, if that was known.
        let known = self.disk.get(&id).is_some_and(|record| record.row == Row::Running);
        match self.sandboxes.get(&id) {
            None => {}
            Some(sandbox) if known && !sandbox.alive && sandbox.sealed && !sandbox.handed_over => {}
            Some(_) => return Input::Failed,
        }
        match self.random.below(20) {
            0 => Input::NotBuilt,
            1 if self.trouble => Input::Failed,
            _ => {
                self.sandboxes_made += 1;
                let number = self.sandboxes_made;
                self.sandboxes
                    .insert(id, Sandbox { number, alive: true, starter: true, ..Sandbox::default() });
                Input::Built
            }
        }
    }

    fn mark(&mut self, id: Uuid) {
        if let Some(record) = self.disk.get_mut(&id).filter(|record| record.row == Row::Waiting) {
            record.row = Row::Running;
            record.statuses.push("running");
        }
    }

    /// The sandbox that a thread has built, if it is still that one.
    fn held(&mut self, id: Uuid, holds: Option<u32>) -> Option<&mut Sandbox> {
        self.sandboxes.get_mut(&id).filter(|sandbox| Some(sandbox.number) == holds)
    }

    fn go(&mut self, id: Uuid, holds: Option<u32>) {
        // If it has ended already there is nobody to go.
        assert_ne!(self.disk[&id].row, Row::Waiting, "{id}: handed over before that was durable");
        if let Some(sandbox) = self.held(id, holds).filter(|sandbox| sandbox.alive) {
            sandbox.handed_over = true;
            *self.starts.entry(id).or_default() += 1;
        }
    }

    fn keep_unstarted(&mut self, id: Uuid) {
        self.end(id, End { started: false, complete: true, bytes: 0 });
    }

    /// From what is left in the backend. With nothing left, nobody can know.
    fn keep_end(&mut self, id: Uuid) {
        let end = match self.sandboxes.get(&id) {
            Some(sandbox) => {
                assert!(!sandbox.alive, "{id}: ended while its supervisor writes");
                let (said, captured) = (sandbox.said, sandbox.captured);
                assert!(
                    !sandbox.sealed || said == captured,
                    "{id}: complete, with {captured} of {said} bytes"
                );
                End { started: sandbox.handed_over, complete: sandbox.sealed, bytes: captured }
            }
            None => End { started: true, complete: false, bytes: 0 },
        };
        self.end(id, end);
    }

    /// The first end stays.
    fn end(&mut self, id: Uuid, end: End) {
        let Some(record) = self.disk.get_mut(&id).filter(|record| record.end.is_none()) else { return };
        record.row = Row::Ended;
        record.end = Some(end);
        record.statuses.push("ended");
        self.ended += 1;
        if self.sandboxes.get(&id).is_some_and(|sandbox| !sandbox.alive) {
            self.sandboxes.remove(&id);
        }
    }

    fn discard(&mut self, id: Uuid) {
        let row = self.disk.get(&id).map_or(Row::Unknown, |record| record.row);
        if row != Row::Running && self.sight(id) == Sight::Finished {
            self.sandboxes.remove(&id);
        }
    }

    fn sight(&self, id: Uuid) -> Sight {
        match self.sandboxes.get(&id) {
            None => Sight::Nothing,
            Some(sandbox) if sandbox.alive => Sight::Alive,
            Some(_) => Sight::Finished,
        }
    }

    fn reconcile(&mut self) {
        let mut ids: BTreeSet<Uuid> = self.disk.keys().copied().collect();
        ids.extend(self.sandboxes.keys());
        for id in ids {
            self.look_at(id);
        }
    }

    fn look_at(&mut self, id: Uuid) {
        let (row, priority) =
            self.disk.get(&id).map_or((Row::Unknown, 0), |record| (record.row, record.priority));
        let actions = self.owners.found(id, priority, row, self.sight(id));
        self.begin(id, actions);
    }

    /// A backend's event: of one that has ended, perhaps long ago, perhaps of one that nobody knows.
    fn tell_of_an_end(&mut self) {
        let over: Vec<Uuid> =
            self.disk.keys().copied().filter(|id| self.sight(*id) != Sight::Alive).collect();
        if over.is_empty() {
            return;
        }
        let id = over[self.random.below(over.len())];
        // Only one that is known to run can be over; what is told of others is a reason to look.
        if matches!(self.owners.state(id), Some(super::lifecycle::State::Running { .. })) {
            let actions = self.owners.on(id, Input::Over);
            self.begin(id, actions);
        } else {
            self.look_at(id);
        }
    }

    // What clients do.

    fn submit(&mut self) {
        let known: Vec<u64> = self.disk.values().map(|record| record.key).collect();
        let key = match self.random.percent(30) && !known.is_empty() {
            true => known[self.random.below(known.len())],
            false => self.random.next(),
        };
        if self.disk.values().any(|record| record.key == key) {
            return;
        }
        self.ids += 1;
        let id = Uuid::from_u128(self.ids);
        let priority = self.random.below(3) as i32;
        let record = Record { row: Row::Waiting, key, priority, end: None, statuses: vec!["queued"] };
        let accepted = self.write(
            |world| {
                world.disk.insert(id, record);
            },
            Input::Kept,
        );
        // It may die before its memory knows.
        if accepted == Input::Kept && !self.random.percent(5) {
            self.owners.accepted(id, priority);
        }
    }

    fn cancel(&mut self) {
        let open: Vec<Uuid> =
            self.disk.iter().filter(|(_, record)| record.end.is_none()).map(|(id, _)| *id).collect();
        if open.is_empty() {
            return;
        }
        let id = open[self.random.below(open.len())];
        self.look_at(id);
        self.cancelled.insert(id);
        let actions = self.owners.on(id, Input::Cancel);
        self.begin(id, actions);
    }

    // What the world does.

    fn one_sandbox(&mut self) {
        let ids: Vec<Uuid> = self.sandboxes.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.below(ids.len())];
        let over = self.random.percent(25);
        let Some(sandbox) = self.sandboxes.get_mut(&id).filter(|sandbox| sandbox.alive) else { return };
        match (sandbox.handed_over, over) {
            // A supervisor whose starter died before the go takes its sandbox down.
            (false, _) => {
                if !sandbox.starter {
                    (sandbox.alive, sandbox.sealed) = (false, true);
                }
            }
            (true, false) if !sandbox.asked_to_stop => sandbox.said += 1,
            (true, _) => {
                sandbox.captured = sandbox.said;
                (sandbox.alive, sandbox.sealed) = (false, true);
            }
        }
    }

    fn kill_a_supervisor(&mut self) {
        let alive: Vec<Uuid> =
            self.sandboxes.iter().filter(|(_, sandbox)| sandbox.alive).map(|(id, _)| *id).collect();
        if alive.is_empty() {
            return;
        }
        let id = alive[self.random.below(alive.len())];
        if let Some(sandbox) = self.sandboxes.get_mut(&id) {
            sandbox.alive = false;
            sandbox.captured = sandbox.said / 2;
        }
    }

    fn lose_a_sandbox(&mut self) {
        let ids: Vec<Uuid> = self.sandboxes.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.random.below(ids.len())];
            self.sandboxes.remove(&id);
        }
    }

    /// The server dies. What it was at has happened, or not.
    fn crash(&mut self) {
        for thread in std::mem::take(&mut self.threads) {
            if let Some(action) = thread.todo.front()
                && self.random.percent(50)
            {
                let _ = self.perform(thread.id, *action, thread.holds);
            }
        }
        self.owners = Owners::new(CONCURRENCY);
        self.sandboxes.values_mut().for_each(|sandbox| sandbox.starter = false);
        self.crashes += 1;
        self.reconcile();
    }

    // What must hold, always.

    fn check(&self) {
        for (id, record) in &self.disk {
            let sandbox = self.sandboxes.get(id);
            if let Some(end) = record.end {
                assert!(
                    sandbox.is_none_or(|sandbox| !sandbox.alive || !sandbox.handed_over),
                    "{id}: ended and runs"
                );
                assert!(end.started || !self.starts.contains_key(id), "{id}: ran, and its end denies it");
            }
            let expected: &[&[&str]] =
                &[&["queued"], &["queued", "running"], &["queued", "ended"], &["queued", "running", "ended"]];
            assert!(expected.contains(&&record.statuses[..]), "{id}: {:?}", record.statuses);
        }
        assert!(self.starts.values().all(|starts| *starts == 1), "started twice: {:?}", self.starts);
        // Those that run already when they are found are not ours to choose.
        assert!(self.threads.len() < 1000);
    }

    /// After all trouble everything comes to its end.
    fn calm_down(&mut self) {
        self.trouble = false;
        for _ in 0..CALM_STEPS {
            let open = self.disk.values().any(|record| record.end.is_none());
            if !open && self.sandboxes.is_empty() && self.owners.running() + self.owners.waiting() == 0 {
                return;
            }
            self.step();
        }
        let open: Vec<_> = self.disk.iter().filter(|(_, record)| record.end.is_none()).collect();
        panic!("not ended: {open:?}; sandboxes {:?}; {:?}; {:?}", self.sandboxes, self.owners, self.threads);
    }
}

#[test]
fn whatever_happens_each_execution_ends_once_and_nothing_is_lost() {
    let (mut ended, mut crashes, mut complete, mut unstarted, mut bytes) = (0, 0, 0, 0, 0);
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..STEPS).for_each(|_| world.step());
            world.calm_down();
            world
        });
        let Ok(world) = run else { panic!("seed {seed}") };
        ended += world.ended;
        crashes += world.crashes;
        for record in world.disk.values() {
            let end = record.end.unwrap();
            complete += u32::from(end.complete && end.started);
            unstarted += u32::from(!end.started);
            bytes += end.bytes;
        }
    }
    // The world is hard, and life goes on in it.
    assert!(crashes > 5 * SEEDS as u32, "{crashes}");
    assert!(
        bytes > ended && complete > ended / 3 && unstarted > ended / 20,
        "{complete} complete, {unstarted} not started of {ended}"
    );
}
