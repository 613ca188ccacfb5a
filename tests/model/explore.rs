//! Breadth-first search over all states of a model, with the shortest schedule to whatever is wrong.
//! It knows nothing of the protocol.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A search that grows beyond this was set up wrongly.
const STATES_MAX: usize = 1_000_000;

/// What one step leads to.
pub(crate) struct Next<S, A> {
    /// Who does what.
    pub(crate) action: A,
    /// True where the environment may do it and need not: then nothing can be hoped from it.
    pub(crate) is_chance: bool,
    /// The state after it, or what it broke.
    pub(crate) state: Result<S, String>,
}

/// A system of states and steps.
pub(crate) trait Model {
    /// Everything that the future depends on.
    type State: Copy + Eq + Hash;
    /// A step's name.
    type Action: Copy + Debug;

    /// Where it begins.
    fn start(&self) -> Self::State;
    /// All steps that are possible.
    fn steps(&self, state: &Self::State, into: &mut Vec<Next<Self::State, Self::Action>>);
    /// What is wrong with a state, if anything.
    fn check(&self, state: &Self::State) -> Result<(), String>;
    /// Nothing is to be done any more, and all was done. Once reached it must stay so.
    fn is_complete(&self, state: &Self::State) -> bool;
}

/// What the search found.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing is wrong.
    Holds,
    /// Safety is broken by the last step of the schedule.
    Broken { what: String, schedule: Vec<String> },
    /// After the schedule, completion cannot be reached without the help of chance.
    Stuck { schedule: Vec<String> },
}

/// The outcome, and how much was looked at.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) states: usize,
    pub(crate) steps: usize,
}

/// FxHash: the default hasher takes most of a debug build's time.
#[derive(Default)]
struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }
    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

type Index<S> = HashMap<S, usize, BuildHasherDefault<FastHasher>>;

/// How a state was first reached.
struct Reached<A> {
    from: usize,
    by: Option<A>,
}

/// Visits every state.
///
/// Completion is judged so: from every state, some complete one must be reachable by steps that are not left to
/// chance. As completion stays, this is the same as: every fair run completes.
pub(crate) fn explore<M: Model>(model: &M) -> Report {
    let mut states = vec![model.start()];
    let mut reached = vec![Reached { from: 0, by: None }];
    let mut index: Index<M::State> = HashMap::default();
    index.insert(states[0], 0);
    // For the way back from the complete states.
    let mut hopeful: Vec<(usize, usize)> = Vec::new();
    let mut next = Vec::new();
    let (mut at, mut steps) = (0, 0);
    while at < states.len() {
        model.steps(&states[at], &mut next);
        for Next { action, is_chance, state } in next.drain(..) {
            steps += 1;
            let known = state.and_then(|state| match index.entry(state) {
                Entry::Occupied(known) => Ok(*known.get()),
                Entry::Vacant(new) => {
                    model.check(&state)?;
                    states.push(state);
                    reached.push(Reached { from: at, by: Some(action) });
                    Ok(*new.insert(states.len() - 1))
                }
            });
            let to = match known {
                Ok(to) => to,
                Err(what) => {
                    let mut schedule = schedule(&reached, at);
                    schedule.push(format!("{action:?}"));
                    return Report {
                        outcome: Outcome::Broken { what, schedule },
                        states: states.len(),
                        steps,
                    };
                }
            };
            if !is_chance {
                hopeful.push((to, at));
            }
        }
        at += 1;
        assert!(states.len() < STATES_MAX, "more than {STATES_MAX} states");
    }
    drop(index);
    let can = can_complete(model, &states, &mut hopeful);
    let outcome = can.iter().position(|can| !can).map_or(Outcome::Holds, |first| {
        // Among the states without hope, one where little is left to do tells most: the first that is final.
        let last = final_state(model, &states, &can).unwrap_or(first);
        Outcome::Stuck { schedule: schedule(&reached, last) }
    });
    Report { outcome, states: states.len(), steps }
}

/// Which states lie on a way to completion.
fn can_complete<M: Model>(model: &M, states: &[M::State], hopeful: &mut [(usize, usize)]) -> Vec<bool> {
    hopeful.sort_unstable();
    let mut can: Vec<bool> = states.iter().map(|state| model.is_complete(state)).collect();
    let mut todo: Vec<usize> = (0..states.len()).filter(|n| can[*n]).collect();
    while let Some(to) = todo.pop() {
        let first = hopeful.partition_point(|edge| edge.0 < to);
        for (_, from) in hopeful[first..].iter().take_while(|edge| edge.0 == to) {
            if !std::mem::replace(&mut can[*from], true) {
                todo.push(*from);
            }
        }
    }
    can
}

/// The first state without hope in which nothing but chance can move.
fn final_state<M: Model>(model: &M, states: &[M::State], can: &[bool]) -> Option<usize> {
    let mut next = Vec::new();
    (0..states.len()).filter(|n| !can[*n]).find(|n| {
        next.clear();
        model.steps(&states[*n], &mut next);
        next.iter().all(|step| step.is_chance)
    })
}

fn schedule<A: Debug>(reached: &[Reached<A>], mut at: usize) -> Vec<String> {
    let mut steps = Vec::new();
    while let Some(by) = &reached[at].by {
        steps.push(format!("{by:?}"));
        at = reached[at].from;
    }
    steps.reverse();
    steps
}
