//! Breadth-first search over all states of a model. It reports the shortest schedule that violates a
//! property, and knows nothing about the protocol.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Most states of a search. A larger search has wrong parameters.
const STATES_MAX: usize = 1_000_000;

/// One step and its result.
pub(crate) struct Next<S, A> {
    /// The name of the step.
    pub(crate) action: A,
    /// Whether the step is left to chance: the environment may take it, but need not. Liveness must not
    /// depend on it.
    pub(crate) is_chance: bool,
    /// The next state, or the property that the step violates.
    pub(crate) state: Result<S, String>,
}

/// A transition system.
pub(crate) trait Model {
    /// Everything that later steps depend on.
    type State: Copy + Eq + Hash;
    /// The name of a step.
    type Action: Copy + Debug;

    /// The initial state.
    fn start(&self) -> Self::State;
    /// Adds every step that is possible in a state.
    fn steps(&self, state: &Self::State, into: &mut Vec<Next<Self::State, Self::Action>>);
    /// Checks the safety properties of a state.
    fn check(&self, state: &Self::State) -> Result<(), String>;
    /// Whether everything is done in a state. A complete state must have complete successors only.
    fn is_complete(&self, state: &Self::State) -> bool;
}

/// Result of a search.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All properties hold.
    Holds,
    /// The last step of the schedule violates safety.
    Broken { what: String, schedule: Vec<String> },
    /// After the schedule, a complete state cannot be reached without steps that are left to chance.
    Stuck { schedule: Vec<String> },
}

/// The outcome, and the size of the search.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) states: usize,
    pub(crate) steps: usize,
}

/// FxHash. The default hasher takes most of the time of a debug build.
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

/// The step by which a state was first reached.
struct Reached<A> {
    from: usize,
    by: Option<A>,
}

/// Visits every state.
///
/// Liveness: from every state, a complete state must be reachable by steps that are not left to chance.
/// Complete states stay complete, so this is equivalent to "every fair run completes".
pub(crate) fn explore<M: Model>(model: &M) -> Report {
    let mut states = vec![model.start()];
    let mut reached = vec![Reached { from: 0, by: None }];
    let mut index: Index<M::State> = HashMap::default();
    index.insert(states[0], 0);
    // Reversed edges that are not left to chance, for the search backwards from the complete states.
    let mut fair_edges: Vec<(usize, usize)> = Vec::new();
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
                fair_edges.push((to, at));
            }
        }
        at += 1;
        assert!(states.len() < STATES_MAX, "more than {STATES_MAX} states");
    }
    drop(index);
    let can = can_complete(model, &states, &mut fair_edges);
    let outcome = can.iter().position(|can| !can).map_or(Outcome::Holds, |first| {
        // A final stuck state explains most, because little is left to do in it.
        let last = final_state(model, &states, &can).unwrap_or(first);
        Outcome::Stuck { schedule: schedule(&reached, last) }
    });
    Report { outcome, states: states.len(), steps }
}

/// For each state, whether a complete state can be reached from it.
fn can_complete<M: Model>(model: &M, states: &[M::State], fair_edges: &mut [(usize, usize)]) -> Vec<bool> {
    fair_edges.sort_unstable();
    let mut can: Vec<bool> = states.iter().map(|state| model.is_complete(state)).collect();
    let mut todo: Vec<usize> = (0..states.len()).filter(|n| can[*n]).collect();
    while let Some(to) = todo.pop() {
        let first = fair_edges.partition_point(|edge| edge.0 < to);
        for (_, from) in fair_edges[first..].iter().take_while(|edge| edge.0 == to) {
            if !std::mem::replace(&mut can[*from], true) {
                todo.push(*from);
            }
        }
    }
    can
}

/// The first stuck state in which only steps left to chance are possible.
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
