//! The life of one execution in a service, as a pure state machine. Who performs an action reports what came of it as the next
//! input; in between anything may happen, the end of the whole process included.
//!
//! ```text
//!                     Cancel                                   Cancel: Stop
//!   Queued ------------------------------+                       +----+
//!     |                                  |                       v    |
//!     | Turn              NotBuilt       v            Over       |    |
//!     +-----> Building --------------> Ending <-------------- Running-+
//!                | Built, no cancel      | Kept                  ^
//!                v                       v                       |
//!             Marking                  Done                      |
//!                |   Marked                                      |
//!                +-----------------------------------------------+
//!
//!   Running -- Unstarted --> Building: who built it died before its go, and that is provable; it is built again.
//!
//!   Failed, in any state: the disk or the machine could not. We let go of it (GivenUp), and whoever reconciles takes it up
//!   again from what is on disk.
//! ```
//!
//! What is on disk decides, never what is in here: [`found`] says what to do with an execution that nobody owns, after a crash
//! or for any other reason. An input that makes no sense in a state (an end reported twice, a late answer) changes nothing.
//!
//! The program is handed over ([`Action::Go`]) only after `running` is durable, and only out of `Marking`. So one that is
//! `queued` on disk never ran and may begin anew, and one that is `running` on disk may have run and never does again.

/// Where an execution is, as its owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Durable; waits for its turn.
    Queued,
    /// What it needs is made ready. Nothing of it runs.
    Building { cancelled: bool },
    /// The sandbox waits for its go; `running` is on its way to the disk.
    Marking { cancelled: bool },
    /// Handed over.
    Running { stopping: bool },
    /// Its end is on its way to the disk.
    Ending,
    /// Ended, durably.
    Done,
    /// Nobody's, until it is found again.
    GivenUp,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// There is room for it to run.
    Turn,
    /// Somebody asks for its end.
    Cancel,
    /// Its sandbox waits for the go.
    Built,
    /// It can't be started, which is its end.
    NotBuilt,
    /// `running` is durable.
    Marked,
    /// The backend says that nothing of it runs any more.
    Over,
    /// The same, and the program was provably never started: nobody gave the word.
    Unstarted,
    /// Its end is durable, and visible.
    Kept,
    /// Something of ours failed that may work later: a full disk.
    Failed,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make its sandbox ready.
    Build,
    /// Make it durable that it is running.
    Mark,
    /// Hand the program over.
    Go,
    /// Wait for its end.
    Watch,
    /// Ask whatever is at work on it to stop.
    Stop,
    /// Take down a sandbox that never got its go.
    Abandon,
    /// Make it durable that it ended without having been started.
    KeepUnstarted,
    /// Make its end durable, from all that its transcript has.
    KeepEnd,
    /// Remove what a backend still has of it.
    Discard,
}

/// What is on disk of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Accepted, and surely not handed over.
    Waiting,
    /// It may have been handed over.
    Running,
    Ended,
    /// Nothing is known of it.
    Unknown,
}

/// What a backend has of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Nothing,
    /// A supervisor, or somebody else, is at work on it.
    Alive,
    /// Nobody is at work on it any more; its transcript is as long as it gets.
    Finished,
}

/// One execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    state: State,
}

impl Machine {
    pub fn queued() -> Machine {
        Machine { state: State::Queued }
    }

    pub fn state(self) -> State {
        self.state
    }

    /// It needs no owner any more.
    pub fn is_over(self) -> bool {
        matches!(self.state, State::Done | State::GivenUp)
    }

    /// Takes one input. What is returned is to be done in this order.
    pub fn on(&mut self, input: Input) -> &'static [Action] {
        let (state, actions) = next(self.state, input);
        self.state = state;
        actions
    }
}

fn next(state: State, input: Input) -> (State, &'static [Action]) {
    use Action::{Abandon, Build, Go, KeepEnd, KeepUnstarted, Mark, Stop, Watch};
    match (state, input) {
        (State::Queued, Input::Turn) => (State::Building { cancelled: false }, &[Build]),
        (State::Queued, Input::Cancel) => (State::Ending, &[KeepUnstarted]),

        (State::Building { cancelled: false }, Input::Cancel) => {
            (State::Building { cancelled: true }, &[Stop])
        }
        (State::Building { cancelled: false }, Input::Built) => {
            (State::Marking { cancelled: false }, &[Mark])
        }
        (State::Building { cancelled: true }, Input::Built) => (State::Ending, &[Abandon, KeepUnstarted]),
        (State::Building { .. }, Input::NotBuilt) => (State::Ending, &[KeepUnstarted]),

        (State::Marking { .. }, Input::Cancel) => (State::Marking { cancelled: true }, &[]),
        (State::Marking { cancelled: false }, Input::Marked) => {
            (State::Running { stopping: false }, &[Go, Watch])
        }
        // It is on disk as running by now, so it gets a life, if a short one.
        (State::Marking { cancelled: true }, Input::Marked) => {
            (State::Running { stopping: true }, &[Go, Stop, Watch])
        }
        (State::Marking { .. }, Input::Failed) => (State::GivenUp, &[Abandon]),

        (State::Running { stopping: false }, Input::Cancel) => (State::Running { stopping: true }, &[Stop]),
        (State::Running { .. }, Input::Over) => (State::Ending, &[KeepEnd]),
        (State::Running { stopping: false }, Input::Unstarted) => {
            (State::Building { cancelled: false }, &[Build])
        }
        (State::Running { stopping: true }, Input::Unstarted) => (State::Ending, &[KeepUnstarted]),

        (State::Ending, Input::Kept) => (State::Done, &[]),

        (State::Done, _) => (State::Done, &[]),
        (_, Input::Failed) => (State::GivenUp, &[]),
        (state, _) => (state, &[]),
    }
}

/// What becomes of an execution that nobody owns. `None`: nobody has to.
pub fn found(row: Row, sight: Sight) -> (Option<Machine>, &'static [Action]) {
    let in_state = |state| Some(Machine { state });
    match (row, sight) {
        (Row::Waiting, Sight::Nothing) => (in_state(State::Queued), &[]),
        // It was never handed over: what is there is of a start that came to nothing.
        (Row::Waiting, Sight::Finished) => (in_state(State::Queued), &[Action::Discard]),
        // Somebody builds it; or takes it down, and then it is seen again.
        (Row::Waiting, Sight::Alive) => (None, &[]),
        // Watching one that has ended takes no time, and tells how it is to go on.
        (Row::Running, Sight::Alive | Sight::Finished) => {
            (in_state(State::Running { stopping: false }), &[Action::Watch])
        }
        // With nothing left of it, its end says just that.
        (Row::Running, Sight::Nothing) => (in_state(State::Ending), &[Action::KeepEnd]),
        (Row::Ended | Row::Unknown, Sight::Nothing | Sight::Alive) => (None, &[]),
        (Row::Ended | Row::Unknown, Sight::Finished) => (None, &[Action::Discard]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 10] = [
        State::Queued,
        State::Building { cancelled: false },
        State::Building { cancelled: true },
        State::Marking { cancelled: false },
        State::Marking { cancelled: true },
        State::Running { stopping: false },
        State::Running { stopping: true },
        State::Ending,
        State::Done,
        State::GivenUp,
    ];
    const INPUTS: [Input; 9] = [
        Input::Turn,
        Input::Cancel,
        Input::Built,
        Input::NotBuilt,
        Input::Marked,
        Input::Over,
        Input::Unstarted,
        Input::Kept,
        Input::Failed,
    ];

    /// Takes an execution through inputs and returns all actions.
    fn actions(inputs: &[Input]) -> (State, Vec<Action>) {
        let mut machine = Machine::queued();
        let actions = inputs.iter().flat_map(|input| machine.on(*input)).copied().collect();
        (machine.state(), actions)
    }

    #[test]
    fn a_life() {
        use Action::{Build, Go, KeepEnd, Mark, Watch};
        let whole = [Input::Turn, Input::Built, Input::Marked, Input::Over, Input::Kept];
        assert_eq!(actions(&whole), (State::Done, vec![Build, Mark, Go, Watch, KeepEnd]));
    }

    #[test]
    fn one_that_was_never_given_the_word_is_built_again() {
        use Action::{Build, Go, KeepEnd, KeepUnstarted, Mark, Stop, Watch};
        let adopted = || found(Row::Running, Sight::Alive).0.unwrap();
        let all = |inputs: &[Input]| {
            let mut machine = adopted();
            let actions: Vec<Action> = inputs.iter().flat_map(|input| machine.on(*input)).copied().collect();
            (machine.state(), actions)
        };
        let again = [Input::Unstarted, Input::Built, Input::Marked, Input::Over, Input::Kept];
        assert_eq!(all(&again), (State::Done, vec![Build, Mark, Go, Watch, KeepEnd]));
        let cancelled = [Input::Cancel, Input::Unstarted, Input::Kept];
        assert_eq!(all(&cancelled), (State::Done, vec![Stop, KeepUnstarted]));
    }

    #[test]
    fn a_cancel_in_each_state() {
        use Action::{Abandon, Build, Go, KeepEnd, KeepUnstarted, Mark, Stop, Watch};
        use Input::{Built, Cancel, Kept, Marked, NotBuilt, Over, Turn};
        assert_eq!(actions(&[Cancel, Kept]), (State::Done, vec![KeepUnstarted]));
        let built = [Turn, Cancel, Cancel, Built, Kept];
        assert_eq!(actions(&built), (State::Done, vec![Build, Stop, Abandon, KeepUnstarted]));
        let not_built = [Turn, Cancel, NotBuilt, Cancel, Kept];
        assert_eq!(actions(&not_built), (State::Done, vec![Build, Stop, KeepUnstarted]));
        let marking = [Turn, Built, Cancel, Cancel, Marked, Over, Kept];
        assert_eq!(actions(&marking), (State::Done, vec![Build, Mark, Go, Stop, Watch, KeepEnd]));
        let running = [Turn, Built, Marked, Cancel, Cancel, Over, Cancel, Kept, Cancel];
        assert_eq!(actions(&running), (State::Done, vec![Build, Mark, Go, Watch, Stop, KeepEnd]));
    }

    #[test]
    fn a_failure_in_each_state_lets_go_of_it() {
        for state in STATES.into_iter().filter(|state| *state != State::Done) {
            let (next, actions) = next(state, Input::Failed);
            assert_eq!(next, State::GivenUp);
            let marking = matches!(state, State::Marking { .. });
            assert_eq!(actions, if marking { &[Action::Abandon][..] } else { &[] }, "{state:?}");
        }
    }

    /// For any order of inputs: no go without a durable `running` before it, and no second one; no end without a start of
    /// ending; nothing after the end.
    #[test]
    fn whatever_comes_in_whatever_order() {
        let mut seed = 0x0005_DEEC_E66D_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut lives = 0;
        for _ in 0..20_000 {
            let (mut machine, mut gone, mut asked_to_mark, mut keeps) = (Machine::queued(), 0, false, 0);
            for _ in 0..12 {
                let (before, input) = (machine.state(), INPUTS[random(INPUTS.len())]);
                if input == Input::Unstarted && gone > 0 {
                    // Nobody can say so of one that had its go.
                    continue;
                }
                for action in machine.on(input) {
                    match action {
                        Action::Mark => asked_to_mark = true,
                        Action::Go => {
                            gone += 1;
                            assert!(asked_to_mark && input == Input::Marked, "{before:?} {input:?}");
                        }
                        Action::KeepEnd => {
                            keeps += 1;
                            assert!(gone == 1 && input == Input::Over);
                        }
                        Action::KeepUnstarted => {
                            keeps += 1;
                            assert_eq!(gone, 0);
                        }
                        _ => {}
                    }
                }
                assert!(
                    !matches!(before, State::Done | State::GivenUp)
                        || machine.state() == before
                        || before == State::GivenUp
                );
            }
            assert!(gone <= 1 && keeps <= 1);
            lives += usize::from(machine.state() == State::Done);
        }
        assert!(lives > 100, "{lives}");
    }

    #[test]
    fn what_is_found() {
        let state = |row, sight| found(row, sight).0.map(Machine::state);
        assert_eq!(state(Row::Waiting, Sight::Nothing), Some(State::Queued));
        assert_eq!(found(Row::Waiting, Sight::Finished).1, [Action::Discard]);
        assert_eq!(state(Row::Waiting, Sight::Alive), None);
        for sight in [Sight::Alive, Sight::Finished] {
            assert_eq!(state(Row::Running, sight), Some(State::Running { stopping: false }));
            assert_eq!(found(Row::Running, sight).1, [Action::Watch]);
        }
        assert_eq!(state(Row::Running, Sight::Nothing), Some(State::Ending));
        assert_eq!(found(Row::Running, Sight::Nothing).1, [Action::KeepEnd]);
        for row in [Row::Ended, Row::Unknown] {
            assert_eq!(found(row, Sight::Finished), (None, &[Action::Discard][..]));
            assert_eq!(found(row, Sight::Nothing), (None, &[][..]));
            assert_eq!(found(row, Sight::Alive), (None, &[][..]));
        }
    }
}
