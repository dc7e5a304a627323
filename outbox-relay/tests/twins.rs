//! Relays that are broken on purpose, in a small world of transactions, crashes and a broker that
//! refuses: the checker must catch each of them, and must pass the one that follows the rules.
//!
//! The world is a model, not the relay: it shows that the rules are needed and that the checker sees
//! when one is left out. That the relay follows them is shown against real servers.

use outbox::uuid::Uuid;
use outbox_relay::history::{Differences, Published, Written, compare};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The rule that a twin leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// `seq > last` instead of the difference of snapshots.
    CursorById,
    /// A row is taken for visible when its own (sub)transaction looks ended.
    VisibilityByXmin,
    /// Acknowledges up to the last delivery, not the last whole commit.
    AckInsideTransaction,
    /// Moves the cursor when it sends, not when the broker has it.
    MarkBeforeAck,
    /// Sends the next event of a key before the fate of the one before is known.
    NoKeyFence,
    /// Skips everything up to the newest event found in the topic.
    TailAsWatermark,
    /// Remembers what it set aside in memory only.
    ParkingNotDurable,
    /// Moves the cursor although another relay has taken over.
    StaleRelayNotFenced,
}

/// A committed or open transaction's row.
#[derive(Clone, Debug)]
struct Row {
    id: Uuid,
    key: usize,
    seq: i64,
    place: i64,
    transaction: usize,
    committed_at: Option<usize>,
    aborted: bool,
    in_savepoint: bool,
}

struct World {
    rng: Random,
    rows: Vec<Row>,
    open: Vec<(usize, Vec<usize>, u64)>,
    locked: HashSet<usize>,
    commits: usize,
    transactions: usize,
    log: Vec<(Uuid, usize)>,
    poison: HashSet<Uuid>,
}

const KEYS: usize = 4;

/// SplitMix64: the same worlds from the same seeds, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: Random(seed),
            rows: Vec::new(),
            open: Vec::new(),
            locked: HashSet::new(),
            commits: 0,
            transactions: 0,
            log: Vec::new(),
            poison: HashSet::new(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.below(100) < percent.into()
    }

    /// A transaction locks free keys, writes an event or two of each, and stays open for a while.
    fn begin(&mut self) {
        let transaction = self.transactions;
        self.transactions += 1;
        let mut keys = Vec::new();
        for key in 0..KEYS {
            if !self.locked.contains(&key) && self.chance(40) {
                self.locked.insert(key);
                keys.push(key);
                for _ in 0..=self.rng.below(2) {
                    let place = self.rows.iter().filter(|row| row.key == key && !row.aborted).count() as i64;
                    let seq = self.rows.len() as i64 + 1;
                    let id = Uuid::from_u128(seq as u128);
                    let in_savepoint = self.chance(30);
                    if self.chance(3) {
                        self.poison.insert(id);
                    }
                    let committed_at = None;
                    self.rows.push(Row {
                        id,
                        key,
                        seq,
                        place,
                        transaction,
                        committed_at,
                        aborted: false,
                        in_savepoint,
                    });
                }
            }
        }
        let steps = self.rng.below(6);
        self.open.push((transaction, keys, steps));
    }

    fn end_some(&mut self) {
        let mut still = Vec::new();
        for (transaction, keys, steps) in std::mem::take(&mut self.open) {
            if steps > 0 {
                still.push((transaction, keys, steps - 1));
                continue;
            }
            let aborts = self.chance(15);
            self.commits += 1;
            for row in self.rows.iter_mut().filter(|row| row.transaction == transaction) {
                row.aborted = aborts;
                row.committed_at = (!aborts).then_some(self.commits);
            }
            keys.iter().for_each(|key| {
                self.locked.remove(key);
            });
        }
        self.open = still;
    }

    fn written(&self, parked: &BTreeSet<i64>) -> Vec<Written> {
        let committed = self.rows.iter().filter(|row| row.committed_at.is_some());
        let event = |row: &Row| Written {
            id: row.id,
            key: row.key.to_string(),
            place: row.place,
            due: !parked.contains(&row.seq),
        };
        committed.map(event).collect()
    }
}

/// What survives a relay's crash.
#[derive(Clone, Debug, Default)]
struct Durable {
    seen_commits: usize,
    last_seq: i64,
    parked: BTreeSet<i64>,
    parked_keys: BTreeSet<usize>,
    tail: usize,
}

/// Runs the world with relays that crash, and compares.
fn run(broken: Broken, seed: u64) -> Differences {
    let mut world = World::new(seed);
    let mut durable = Durable::default();
    let mut found: HashSet<Uuid> = HashSet::new();
    let mut zombie: Option<Durable> = None;
    for step in 0..60 {
        let last = step >= 50;
        if !last {
            world.begin();
        }
        world.end_some();
        let before = durable.clone();
        let crashed = step_relay(broken, &mut world, &mut durable, &mut found, !last);
        if crashed {
            if broken == Broken::StaleRelayNotFenced {
                // The one that crashed was only frozen, with what it meant to acknowledge.
                zombie = Some(before);
            }
            found = world.log[durable.tail..].iter().map(|(id, _)| *id).collect();
            if broken == Broken::TailAsWatermark
                && let Some(newest) = found.iter().max().copied()
            {
                found = world.rows.iter().map(|row| row.id).filter(|id| *id <= newest).collect();
            }
        } else if let Some(zombie) = zombie.take() {
            // It wakes up and writes its own cursor over its successor's.
            durable.seen_commits = zombie.seen_commits;
        }
    }
    let published = world.log.iter().enumerate().map(|(offset, (id, key))| Published {
        id: *id,
        key: key.to_string(),
        topic: "orders".into(),
        partition: 0,
        offset: offset as i64,
    });
    compare(&world.written(&durable.parked), &published.collect::<Vec<_>>(), true)
}

/// One tick. Answers whether the relay crashed in it; nothing it did not make durable survives.
fn step_relay(
    broken: Broken,
    world: &mut World,
    durable: &mut Durable,
    found: &mut HashSet<Uuid>,
    faults: bool,
) -> bool {
    let now = world.commits;
    let visible = |row: &Row| match broken {
        Broken::VisibilityByXmin if row.in_savepoint && row.committed_at.is_none() => true,
        _ => row.committed_at.is_some(),
    };
    let is_new = |row: &Row| match broken {
        Broken::CursorById => row.seq > durable.last_seq,
        _ => row.committed_at.is_none_or(|at| at > durable.seen_commits),
    };
    let mut tick: Vec<Row> = world.rows.iter().filter(|row| visible(row) && is_new(row)).cloned().collect();
    tick.sort_by_key(|row| row.seq);
    let mut reached = durable.clone();
    reached.seen_commits = now;
    reached.last_seq = tick.last().map_or(durable.last_seq, |row| row.seq);
    if broken == Broken::MarkBeforeAck {
        *durable = reached.clone();
    }
    let mut parks = HashMap::new();
    let mut late: Vec<Row> = Vec::new();
    for (index, row) in tick.iter().enumerate() {
        if faults && world.chance(4) {
            if broken == Broken::AckInsideTransaction && index > 0 {
                // Everything of the last delivery's commit passes for done.
                durable.seen_commits = tick[index - 1].committed_at.unwrap_or(now).max(durable.seen_commits);
            }
            return true;
        }
        if found.remove(&row.id) || durable.parked_keys.contains(&row.key) && !parks.contains_key(&row.key) {
            if durable.parked_keys.contains(&row.key) && !world.log.iter().any(|(id, _)| *id == row.id) {
                parks.entry(row.key).or_insert_with(Vec::new).push(row.seq);
            }
            continue;
        }
        if let Some(parked) = parks.get_mut(&row.key) {
            parked.push(row.seq);
        } else if world.poison.contains(&row.id) {
            parks.insert(row.key, vec![row.seq]);
        } else if faults && world.chance(10) && broken == Broken::NoKeyFence {
            late.push(row.clone());
        } else {
            world.log.push((row.id, row.key));
        }
    }
    world.log.extend(late.into_iter().map(|row| (row.id, row.key)));
    if broken != Broken::ParkingNotDurable {
        for (key, seqs) in parks {
            reached.parked_keys.insert(key);
            reached.parked.extend(seqs);
        }
    }
    reached.tail = world.log.len();
    *durable = reached;
    false
}

const SEEDS: u64 = 200;

#[test]
fn the_rules_kept_pass_whatever_happens() {
    for seed in 0..SEEDS {
        let differences = run(Broken::Nothing, seed);
        assert!(!differences.is_violation(), "seed {seed}: {differences:?}");
        assert!(
            differences.duplicated.is_empty(),
            "seed {seed}: the topic's tail was read, and still: {differences:?}"
        );
    }
}

#[test]
fn each_rule_left_out_is_caught() {
    use Broken::*;
    let twins = [
        (CursorById, "lost"),
        (VisibilityByXmin, "phantom"),
        (AckInsideTransaction, "lost"),
        (MarkBeforeAck, "lost"),
        (NoKeyFence, "reordered"),
        (TailAsWatermark, "lost"),
        (ParkingNotDurable, "lost"),
        (StaleRelayNotFenced, "duplicated"),
    ];
    for (twin, expected) in twins {
        let caught = (0..SEEDS).filter(|seed| {
            let differences = run(twin, *seed);
            match expected {
                "lost" => !differences.lost.is_empty(),
                "phantom" => !differences.phantom.is_empty(),
                "duplicated" => !differences.duplicated.is_empty(),
                _ => !differences.reordered.is_empty(),
            }
        });
        let caught = caught.count();
        assert!(caught > 0, "{twin:?} went unnoticed in {SEEDS} worlds");
    }
}
