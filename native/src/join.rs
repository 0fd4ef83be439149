//! The kernels: ordinary predictions and labels of one partition, in the order of the log.
//!
//! A kernel stops at the first record it does not treat itself, says why, and goes on behind it when it is called again:
//! the reference implementation (`streams/join`) treats that record in between. So the order of the log holds whatever
//! is odd, and every rule that is not written here is written there.

use std::hash::Hash;
use std::sync::Arc;

use crate::hash;
use crate::index::tag;
use crate::json::{Odd, Read, Scalar};
use crate::labels::{contribution, truth_of, Contribution, Told, Truth};
use crate::maps::Map;
use crate::log::Shape;
use crate::notes;
use crate::plan::{key_of, Kind, Plan, Task, KEY_ROOM};
use crate::sums::{PaneKey, Sums};
use crate::table::{
    self, Entry, Table, BOOL, EXPIRED, FLOAT, GONE, INT, LABELLED, NEVER, NOTED, ODD, PENDING, TEXT, TOUCHED, WAITING,
};
use crate::traffic::{
    as_number, object_at, probability, read_label, read_prediction, Features, Label, Prediction, Probability, Shapes,
};

/// So many records further on, memory is asked for.
const AHEAD: usize = 16;
/// The id is looked for in so many bytes of a record.
const FIRST_BYTES: usize = 256;
const MOST_SEGMENT_BYTES: usize = 128;
/// From here on a plan is likely not in the cache.
const MANY_PLANS: usize = 64;
/// Beyond, new segments and label texts go the reference's way: what is interned is never let go.
const MOST_SYMBOLS: usize = 1 << 20;

/// Why a kernel stopped.
pub const ALL_DONE: u32 = 0;
pub const REFERENCE: u32 = 1;
pub const UNKNOWN_VERSION: u32 = 2;
/// A label has to wait, and the offsets and keys of the records were not given.
pub const LABEL_RECORDS: u32 = 3;

/// Counts of one batch; the order is that of `streams/native/library.py`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Counts {
    pub predictions: i64,
    pub pending: i64,
    pub labelled: i64,
    pub expired: i64,
    pub predictions_duplicate: i64,
    pub predictions_skipped: i64,
    pub labels: i64,
    pub labels_matched: i64,
    pub labels_duplicate: i64,
    pub labels_waiting: i64,
    pub labels_orphaned: i64,
    /// Newest event times seen; i64::MIN: none.
    pub newest_prediction_ms: i64,
    pub newest_label_ms: i64,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            predictions: 0, pending: 0, labelled: 0, expired: 0, predictions_duplicate: 0, predictions_skipped: 0,
            labels: 0, labels_matched: 0, labels_duplicate: 0, labels_waiting: 0, labels_orphaned: 0,
            newest_prediction_ms: i64::MIN, newest_label_ms: i64::MIN,
        }
    }
}

/// Number of the text that stands for all of the traffic.
const OVERALL: u32 = 0;

/// Texts and lists of them as numbers.
pub struct Interner<T: Hash + Eq + Clone> {
    pub items: Vec<Box<[T]>>,
    numbers: Map<Box<[T]>, u32>,
}

impl<T: Hash + Eq + Clone> Interner<T> {
    fn new() -> Self {
        Interner { items: Vec::new(), numbers: Map::default() }
    }

    /// Number of an item; None where there are too many.
    pub fn put(&mut self, item: &[T]) -> Option<u32> {
        if let Some(&number) = self.numbers.get(item) {
            return Some(number);
        }
        if self.items.len() >= MOST_SYMBOLS {
            return None;
        }
        let number = self.items.len() as u32;
        self.items.push(item.into());
        self.numbers.insert(item.into(), number);
        Some(number)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Known {
    Plan(u32),
    Skip,
    /// Its predictions name versions as they like: the reference knows their numbers.
    Elsewhere,
}

#[derive(Default)]
struct Versions {
    of: Vec<(i64, Known)>,
    elsewhere: bool,
}

/// Records of one topic and partition, in the order of the log.
pub trait Records {
    fn len(&self) -> usize;
    fn value(&self, at: usize) -> &[u8];
    fn timestamp_ms(&self, at: usize) -> i64;
    fn mark(&self, at: usize) -> u8;
    /// Whether `note` may be asked for.
    fn complete(&self) -> bool;
    /// What the dead letter of a label would need.
    fn note(&self, at: usize) -> Box<[u8]>;
}

/// Records as Python hands them over for the time of one call, column by column.
pub struct Piece<'a> {
    pub data: &'a [u8],
    /// Where each ends in `data`.
    pub ends: &'a [u64],
    pub timestamps_ms: &'a [i64],
    pub marks: &'a [u8],
    /// Of labels only, and only where one has to wait: what its dead letter would need.
    pub offsets: &'a [i64],
    pub keys: &'a [u8],
    pub key_ends: &'a [u64],
}

/// The reference treats the record (no value, a heartbeat).
pub const ODD_RECORD: u8 = 1;
pub const HAS_HEADERS: u8 = 2;
pub const NO_KEY: u8 = 4;

impl Records for Piece<'_> {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn value(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.data[start..self.ends[at] as usize]
    }

    fn timestamp_ms(&self, at: usize) -> i64 {
        self.timestamps_ms[at]
    }

    fn mark(&self, at: usize) -> u8 {
        self.marks[at]
    }

    fn complete(&self) -> bool {
        !self.offsets.is_empty()
    }

    fn note(&self, at: usize) -> Box<[u8]> {
        let start = if at == 0 { 0 } else { self.key_ends[at - 1] as usize };
        let key = (self.marks[at] & NO_KEY == 0).then(|| &self.keys[start..self.key_ends[at] as usize]);
        notes::note(self.offsets[at], self.timestamps_ms[at], key, self.value(at))
    }
}

#[derive(Clone, Copy)]
pub struct Limits {
    pub future_ms: i64,
    pub horizon_ms: i64,
    pub now_ms: i64,
    pub most_bytes: usize,
}

pub struct Partition {
    pub table: Table,
    /// Slot and record of labels that began to wait and whose headers are still to be told.
    pub bare: Vec<(u32, u32)>,
    pub plans: Arc<Vec<Arc<Plan>>>,
    pub plan_names: Vec<(Box<[u8]>, i64)>,
    versions: Map<Box<[u8]>, Versions>,
    pub texts: Interner<u8>,
    pub segments: Interner<u32>,
    pub undo: Vec<(u32, Option<Entry>)>,
    pub sums: Sums,
    pub counts: Counts,
    pub live: Map<u32, i64>,
    pub generation: u32,
    pub watermark_ms: i64,
    pub silent: bool,
    /// Of the version that a kernel did not know.
    pub asked: (Vec<u8>, i64),
    shapes: Shapes,
    /// Plan of the last prediction.
    last: u32,
    key: Vec<u8>,
    segment_ids: Vec<u32>,
    /// Of the prediction at hand.
    probabilities: Vec<f64>,
    contribution: Contribution,
}

/// What the kernel of predictions needs room for, once a batch.
#[derive(Default)]
struct Room<'a> {
    features: Features<'a>,
    values: Vec<Option<Scalar<'a>>>,
}

/// What is most likely a record's prediction_id: wrong or none costs a reading later or too much, no more.
fn id_in(data: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"\"prediction_id\"";
    let mut rest = data;
    loop {
        rest = &rest[rest.iter().position(|byte| *byte == b'"')?..];
        if let Some(after) = rest.strip_prefix(NAME) {
            let (colon, after) = after.split_at(after.iter().position(|byte| *byte == b'"')?);
            let after = &after[1..];
            let length = after.iter().position(|byte| *byte == b'"')?;
            return (colon.contains(&b':')).then_some(&after[..length]);
        }
        rest = &rest[1..];
    }
}

fn id_of(text: &[u8]) -> [u64; 2] {
    let id = hash::id(text);
    [(id >> 64) as u64, id as u64]
}

impl Partition {
    pub fn new(shape: Shape) -> Self {
        let mut texts = Interner::new();
        let overall = texts.put(b"");
        debug_assert_eq!(overall, Some(OVERALL));
        Partition {
            table: Table::new(shape), bare: Vec::new(), plans: Arc::default(), plan_names: Vec::new(), versions: Map::default(),
            texts, segments: Interner::new(),
            undo: Vec::new(), sums: Sums::new(), counts: Counts::default(), live: Map::default(),
            generation: 0, watermark_ms: i64::MIN, silent: false, asked: (Vec::new(), 0),
            shapes: Shapes::default(), last: table::NONE, key: Vec::new(), segment_ids: Vec::new(), probabilities: Vec::new(), contribution: Vec::new(),
        }
    }

    // ------------------------------------------------------------------------------------------- versions

    pub fn know(&mut self, model: &[u8], version: i64, plan: Option<Arc<Plan>>) -> u32 {
        let known = match plan {
            None => Known::Skip,
            Some(plan) => {
                Arc::make_mut(&mut self.plans).push(plan);
                self.plan_names.push((model.into(), version));
                Known::Plan(self.plans.len() as u32 - 1)
            }
        };
        let versions = self.versions.entry(model.into()).or_default();
        versions.of.retain(|item| item.0 != version);
        versions.of.push((version, known));
        self.last = table::NONE;
        match known {
            Known::Plan(number) => number,
            Known::Skip | Known::Elsewhere => table::NONE,
        }
    }

    /// Versions of this model are numbered by the registry, whatever its predictions call them.
    pub fn elsewhere(&mut self, model: &[u8]) {
        self.versions.entry(model.into()).or_default().elsewhere = true;
        self.last = table::NONE;
    }

    /// Give a version that came out of a checkpoint its plan.
    pub fn replace(&mut self, number: u32, plan: Arc<Plan>) -> Option<()> {
        *Arc::make_mut(&mut self.plans).get_mut(number as usize)? = plan;
        Some(())
    }

    /// What is not registered may be from the next batch on.
    pub fn forget_skipped(&mut self) {
        self.versions.retain(|_, versions| {
            versions.of.retain(|item| item.1 != Known::Skip);
            versions.elsewhere || !versions.of.is_empty()
        });
    }

    pub fn known(&self, model: &[u8], version: i64) -> Option<Known> {
        self.versions.get(model)?.of.iter().find(|item| item.0 == version).map(|item| item.1)
    }

    /// As `known`; most predictions are of the version that the one before was of.
    #[inline(always)]
    fn known_again(&mut self, model: &[u8], version: i64) -> Option<Known> {
        if self.plan_names.get(self.last as usize).is_some_and(|last| last.1 == version && *last.0 == *model) {
            return Some(Known::Plan(self.last));
        }
        let versions = self.versions.get(model)?;
        if versions.elsewhere {
            return Some(Known::Elsewhere);
        }
        let known = versions.of.iter().find(|item| item.0 == version).map(|item| item.1);
        if let Some(Known::Plan(number)) = known {
            self.last = number;
        }
        known
    }

    // -------------------------------------------------------------------------------------------- kernels

    /// Read what is cold of a batch's ids, all at once.
    pub fn expect(&mut self, records: &impl Records) {
        if self.table.hot() < self.table.len() {
            let ids = (0..records.len()).filter_map(|at| id_in(records.value(at)));
            self.table.expect(&ids.map(|id| tag(id_of(id))).collect::<Vec<u32>>());
        }
    }

    pub fn run_predictions(&mut self, records: &impl Records, from: usize, limits: &Limits) -> (usize, u32) {
        let mut room = Room::default();
        self.run(records, from, |partition, plans, at| partition.prediction(records, at, limits, plans, &mut room))
    }

    pub fn run_labels(&mut self, records: &impl Records, from: usize, limits: &Limits) -> (usize, u32) {
        self.run(records, from, |partition, plans, at| partition.label(records, at, limits, plans))
    }

    fn run(
        &mut self, records: &impl Records, from: usize, mut each: impl FnMut(&mut Self, &[Arc<Plan>], usize) -> Read<u32>,
    ) -> (usize, u32) {
        // Apart for the time of a run: so each record can look at its plan while it changes the rest.
        let plans = Arc::clone(&self.plans);
        let mut ahead = [[0; 2]; AHEAD];
        for at in from..from + AHEAD {
            self.look_ahead(records, at, &mut ahead);
        }
        let mut stopped = (records.len(), ALL_DONE);
        for at in from..records.len() {
            self.table.prefetch_entry(ahead[(at + AHEAD / 2) % AHEAD]);
            self.look_ahead(records, at + AHEAD, &mut ahead);
            let why = match records.mark(at) & ODD_RECORD {
                0 => each(self, &plans, at).unwrap_or(REFERENCE),
                _ => REFERENCE,
            };
            if why != ALL_DONE {
                stopped = (at, why);
                break;
            }
        }
        stopped
    }

    /// Ask for the memory that a record further on will need: waiting for it costs more than all the rest.
    #[inline(always)]
    fn look_ahead(&self, records: &impl Records, at: usize, ahead: &mut [[u64; 2]; AHEAD]) {
        if at < records.len() {
            let data = records.value(at);
            if let Some(id) = id_in(&data[..data.len().min(FIRST_BYTES)]) {
                ahead[at % AHEAD] = id_of(id);
                self.table.prefetch(ahead[at % AHEAD]);
            }
        }
    }

    fn prediction<'a>(
        &mut self, records: &'a impl Records, at: usize, limits: &Limits, plans: &[Arc<Plan>], room: &mut Room<'a>,
    ) -> Read<u32> {
        let data = records.value(at);
        if data.len() > limits.most_bytes {
            return Err(Odd);
        }
        let p = read_prediction(data, &mut self.shapes, &mut room.features)?;
        check_future(p.event_ms, records.timestamp_ms(at), limits)?;
        let number = match self.known_again(p.model, p.version) {
            Some(Known::Plan(number)) => number,
            Some(Known::Skip) => {
                self.counts.predictions_skipped += 1;
                return Ok(ALL_DONE);
            }
            Some(Known::Elsewhere) => return Err(Odd),
            None => {
                self.asked = (p.model.to_vec(), p.version);
                return Ok(UNKNOWN_VERSION);
            }
        };
        let plan = &*plans[number as usize];
        if plans.len() > MANY_PLANS {
            plan.warm();
        }
        let id = id_of(p.id);
        let payload = hash::payload(data);
        let keep_ms = p.event_ms + plan.delay_ms + plan.horizon_ms + 1;
        let found = self.table.find(id);
        let waiting = found.filter(|&slot| self.table.at(slot).state == WAITING);
        if let (Some(slot), None) = (found, waiting) {
            let entry = self.table.at(slot);
            let same = entry.state != ODD && entry.plan == number && entry.payload == payload && entry.keep_ms >= keep_ms;
            if !same {
                return Err(Odd);
            }
            self.counts.predictions_duplicate += 1;
        } else {
            if keep_ms <= self.watermark_ms {
                return Err(Odd);
            }
            let entry = Entry {
                id, payload, event_ms: p.event_ms, keep_ms, due_ms: keep_ms.min(p.event_ms + plan.delay_ms + 1),
                generation: self.generation, plan: number, state: PENDING, ..Entry::default()
            };
            match waiting {
                Some(slot) => self.first_to(slot, data, &p, plan, entry, room)?,
                None => self.first(data, &p, plan, entry, room)?,
            }
        }
        self.counts.newest_prediction_ms = self.counts.newest_prediction_ms.max(p.event_ms);
        Ok(ALL_DONE)
    }

    /// The first record of its id; nothing is changed where it turns out odd.
    fn first<'a>(
        &mut self, data: &'a [u8], p: &Prediction<'a>, plan: &Plan, mut entry: Entry, room: &mut Room<'a>,
    ) -> Read<()> {
        self.begin(data, p, plan, &mut entry, room)?;
        let slot = self.table.insert(entry);
        self.table.at_mut(slot).flags |= TOUCHED;
        self.undo.push((slot, None));
        self.note(slot, notes::of_prediction(&self.probabilities));
        *self.live.entry(self.generation).or_default() += 1;
        self.counts.pending += 1;
        Ok(())
    }

    /// The first prediction of its id, where a label waits for it; nothing is changed where either turns out odd.
    fn first_to<'a>(
        &mut self, slot: u32, data: &'a [u8], p: &Prediction<'a>, plan: &Plan, mut entry: Entry, room: &mut Room<'a>,
    ) -> Read<()> {
        let waiting = *self.table.at(slot);
        check_times(plan, &entry, waiting.label_ms, waiting.keep_ms)?;
        let truth = truth_of(plan, self.label_of(&waiting))?;
        self.begin(data, p, plan, &mut entry, room)?;
        self.touch(slot);
        let Entry { due_ms, next, prev, pos, flags, .. } = *self.table.at(slot);
        *self.table.at_mut(slot) = Entry {
            keep_ms: entry.keep_ms.max(waiting.keep_ms), generation: waiting.generation, state: LABELLED,
            label: waiting.label, label_kind: waiting.label_kind, label_ms: waiting.label_ms, revision: waiting.revision,
            due_ms, next, prev, pos, flags, ..entry
        };
        self.note(slot, notes::of_prediction(&self.probabilities));
        self.labelled(&entry, plan, truth, waiting.label_ms);
        self.counts.labels_waiting -= 1;
        self.counts.labels_matched += 1;
        self.counts.labelled += 1;
        Ok(())
    }

    /// Fill in what is to be known of a prediction, and count it.
    fn begin<'a>(
        &mut self, data: &'a [u8], p: &Prediction<'a>, plan: &Plan, entry: &mut Entry, room: &mut Room<'a>,
    ) -> Read<()> {
        let (predicted, score) = decided(data, p, plan, &mut self.probabilities)?;
        entry.predicted = u16::try_from(predicted).map_err(|_| Odd)?;
        entry.score = score;
        entry.segments = self.segments_of(data, p, plan, &room.features)?;
        if !self.silent {
            placed(&room.features, plan, &mut room.values)?;
            self.traffic(&room.values, plan, entry);
        }
        self.counts.predictions += 1;
        Ok(())
    }

    fn traffic(&mut self, values: &[Option<Scalar>], plan: &Plan, entry: &Entry) {
        let at = &plan.at;
        let pane_ms = plan.floor(entry.event_ms);
        let score = if entry.score.is_nan() { at.score_missing } else { at.scores + plan.score_bin(entry.score) };
        for &segment in &*self.segments.items[entry.segments as usize] {
            let pane = self.sums.pane(PaneKey { plan: entry.plan, segment, pane_ms, effect_ms: pane_ms });
            self.sums.add(pane, at.predicted, 1);
            self.sums.add(pane, score, 1);
            if plan.classes > 0 {
                self.sums.add(pane, at.predictions + u32::from(entry.predicted), 1);
            }
            let counted = if segment == OVERALL { plan.features.len() } else { plan.of_segments };
            let sums = &mut self.sums;
            for (feature, value) in plan.features[..counted].iter().zip(values) {
                // `placed` has left out what it could refuse.
                plan.count(feature, value.unwrap_or(Scalar::Null), &mut |position, count| sums.add(pane, position, count));
            }
        }
    }

    fn segments_of(&mut self, data: &[u8], p: &Prediction, plan: &Plan, features: &Features) -> Read<u32> {
        self.segment_ids.clear();
        self.segment_ids.push(OVERALL);
        for name in &plan.segments {
            let value = match p.segment.map_or(Ok(None), |at| given_segment(data, at, name))? {
                Some(text) => Scalar::Text(text),
                None => feature_of(features, name)?,
            };
            if value == Scalar::Null {
                continue;
            }
            let mut room = [0u8; KEY_ROOM];
            let text = key_of(value, &mut room).ok_or(Odd)?;
            if text.is_empty() || text == b"nan" {
                continue;
            }
            if text.len() > MOST_SEGMENT_BYTES {
                return Err(Odd);
            }
            self.key.clear();
            self.key.extend_from_slice(name);
            self.key.push(b'=');
            self.key.extend_from_slice(text);
            self.segment_ids.push(self.texts.put(&self.key).ok_or(Odd)?);
        }
        self.segments.put(&self.segment_ids).ok_or(Odd)
    }

    fn label(&mut self, records: &impl Records, at: usize, limits: &Limits, plans: &[Arc<Plan>]) -> Read<u32> {
        let data = records.value(at);
        if data.len() > limits.most_bytes {
            return Err(Odd);
        }
        let l = read_label(data, &mut self.shapes)?;
        check_future(l.event_ms, records.timestamp_ms(at), limits)?;
        let until_ms = l.event_ms + limits.horizon_ms + 1;
        let id = id_of(l.id);
        match self.table.find(id) {
            Some(slot) => self.label_to(slot, &l, until_ms, plans)?,
            None if !records.complete() => return Ok(LABEL_RECORDS),
            None => self.wait(id, &l, until_ms, records, at)?,
        }
        self.counts.labels += 1;
        self.counts.newest_label_ms = self.counts.newest_label_ms.max(l.event_ms);
        Ok(ALL_DONE)
    }

    fn label_to(&mut self, slot: u32, l: &Label, until_ms: i64, plans: &[Arc<Plan>]) -> Read<()> {
        let entry = *self.table.at(slot);
        if entry.state != PENDING && entry.state != LABELLED {
            return Err(Odd);
        }
        if entry.state == LABELLED {
            let (kind, bits) = self.label_bits(l.label)?;
            let same = entry.label_ms == l.event_ms && entry.revision == l.revision && entry.label_kind == kind && entry.label == bits;
            if !same || until_ms > entry.keep_ms || until_ms <= entry.event_ms {
                return Err(Odd);
            }
            self.counts.labels_duplicate += 1;
            return Ok(());
        }
        let plan = &*plans[entry.plan as usize];
        check_times(plan, &entry, l.event_ms, until_ms)?;
        let truth = truth_of(plan, l.label)?;
        let (kind, bits) = self.label_bits(l.label)?;
        self.probabilities.clear();
        if plan.task == Task::Multiclass {
            notes::probabilities(self.table.notes.get(slot), &mut self.probabilities);
        }
        self.labelled(&entry, plan, truth, l.event_ms);
        self.touch(slot);
        let entry = self.table.at_mut(slot);
        entry.state = LABELLED;
        (entry.label, entry.label_kind, entry.label_ms, entry.revision) = (bits, kind, l.event_ms, l.revision);
        entry.keep_ms = entry.keep_ms.max(until_ms);
        // Its due time stays: when it comes, the entry is looked at and told the next.
        self.counts.labels_matched += 1;
        self.counts.pending -= 1;
        self.counts.labelled += 1;
        Ok(())
    }

    /// A label whose prediction has not come.
    fn wait(&mut self, id: [u64; 2], l: &Label, until_ms: i64, records: &impl Records, at: usize) -> Read<()> {
        if until_ms <= self.watermark_ms {
            return Err(Odd);
        }
        let (label_kind, label) = self.label_bits(l.label)?;
        let slot = self.table.insert(Entry {
            id, label, label_kind, label_ms: l.event_ms, revision: l.revision, keep_ms: until_ms, due_ms: until_ms,
            generation: self.generation, plan: table::NONE, state: WAITING, ..Entry::default()
        });
        self.table.at_mut(slot).flags |= TOUCHED;
        self.undo.push((slot, None));
        self.note(slot, records.note(at));
        if records.mark(at) & HAS_HEADERS != 0 {
            self.bare.push((slot, at as u32));
        }
        *self.live.entry(self.generation).or_default() += 1;
        self.counts.labels_waiting += 1;
        Ok(())
    }

    /// The label of an entry.
    fn label_of(&self, entry: &Entry) -> Scalar<'_> {
        match entry.label_kind {
            INT => Scalar::Int(entry.label as i64),
            FLOAT => Scalar::Float(f64::from_bits(entry.label)),
            BOOL => Scalar::Bool(entry.label != 0),
            _ => Scalar::Text(&self.texts.items[entry.label as usize]),
        }
    }

    fn label_bits(&mut self, label: Scalar) -> Read<(u8, u64)> {
        Ok(match label {
            Scalar::Int(value) => (INT, value as u64),
            Scalar::Float(value) => (FLOAT, value.to_bits()),
            Scalar::Bool(value) => (BOOL, u64::from(value)),
            Scalar::Text(text) => (TEXT, u64::from(self.texts.put(text).ok_or(Odd)?)),
            Scalar::Null => return Err(Odd),
        })
    }

    /// Count a first label, for the prediction whose probabilities are at hand.
    fn labelled(&mut self, entry: &Entry, plan: &Plan, truth: Truth, label_ms: i64) {
        if self.silent {
            return;
        }
        let told = Told {
            predicted: u32::from(entry.predicted), score: entry.score, probabilities: &self.probabilities,
        };
        contribution(plan, &told, truth, label_ms - entry.event_ms, &mut self.contribution);
        let (pane_ms, effect_ms) = (plan.floor(entry.event_ms), plan.floor(label_ms.max(entry.event_ms)));
        for &segment in &*self.segments.items[entry.segments as usize] {
            let pane = self.sums.pane(PaneKey { plan: entry.plan, segment, pane_ms, effect_ms });
            for &(position, count) in &self.contribution {
                self.sums.add(pane, position, count);
            }
        }
    }

    // ----------------------------------------------------------------------------------------------- time

    pub fn advance(&mut self, watermark_ms: i64) {
        self.table.wake(watermark_ms);
        let mut due = Vec::new();
        self.table.take_due(watermark_ms, &mut due);
        for slot in due {
            let entry = *self.table.at(slot);
            self.touch(slot);
            if entry.state == WAITING {
                self.counts.labels_waiting -= 1;
                self.counts.labels_orphaned += 1;
                self.gone(slot);
                continue;
            }
            let until_ms = entry.event_ms + self.plans[entry.plan as usize].delay_ms;
            let over = entry.keep_ms <= watermark_ms;
            if entry.state == PENDING && (over || until_ms < watermark_ms) {
                self.expire(&entry, until_ms);
                self.table.at_mut(slot).state = EXPIRED;
            }
            if over {
                self.gone(slot);
            } else {
                self.table.due(slot, entry.keep_ms);
            }
        }
    }

    fn gone(&mut self, slot: u32) {
        *self.live.entry(self.table.at(slot).generation).or_default() -= 1;
        self.table.due(slot, NEVER);
        self.table.at_mut(slot).state = GONE;
        self.note(slot, Box::default());
    }

    fn expire(&mut self, entry: &Entry, until_ms: i64) {
        self.counts.pending -= 1;
        self.counts.expired += 1;
        if self.silent {
            return;
        }
        let plan = &self.plans[entry.plan as usize];
        let (pane_ms, effect_ms) = (plan.floor(entry.event_ms), plan.floor(until_ms.max(entry.event_ms)));
        for &segment in &*self.segments.items[entry.segments as usize] {
            let pane = self.sums.pane(PaneKey { plan: entry.plan, segment, pane_ms, effect_ms });
            self.sums.add(pane, plan.at.expired, 1);
        }
    }

    // ------------------------------------------------------------------------------------ batch and state

    pub fn touch(&mut self, slot: u32) {
        let entry = *self.table.at(slot);
        if entry.flags & TOUCHED == 0 {
            self.undo.push((slot, Some(entry)));
            self.table.at_mut(slot).flags |= TOUCHED;
        }
    }

    /// The reference took the entry over, or began it.
    pub fn set_odd(&mut self, id: &[u8]) {
        let id = id_of(id);
        match self.table.find(id) {
            Some(slot) => {
                self.touch(slot);
                self.table.due(slot, NEVER);
                self.table.at_mut(slot).state = ODD;
                self.note(slot, Box::default());
            }
            None => {
                let slot = self.table.insert(Entry { id, state: ODD, due_ms: NEVER, ..Entry::default() });
                self.table.at_mut(slot).flags |= TOUCHED;
                self.undo.push((slot, None));
            }
        }
    }

    /// The reference forgot the entry.
    pub fn drop_odd(&mut self, id: &[u8]) {
        if let Some(slot) = self.table.find(id_of(id)) {
            self.touch(slot);
            self.table.due(slot, NEVER);
            self.table.at_mut(slot).state = GONE;
        }
    }

    /// The entry became an ordinary one.
    pub fn put(&mut self, id: &[u8], entry: Entry, note: &[u8]) {
        let id = id_of(id);
        let slot = self.table.find(id).unwrap_or_else(|| {
            let slot = self.table.insert(Entry { id, state: ODD, due_ms: NEVER, ..Entry::default() });
            self.table.at_mut(slot).flags |= TOUCHED;
            self.undo.push((slot, None));
            slot
        });
        self.touch(slot);
        self.table.due(slot, NEVER);
        let pos = self.table.at(slot).pos;
        *self.table.at_mut(slot) =
            Entry { id, flags: TOUCHED, due_ms: NEVER, next: table::NONE, prev: table::NONE, pos, ..entry };
        self.table.due(slot, entry.due_ms);
        self.note(slot, note.into());
    }

    /// Change the note of a touched entry.
    fn note(&mut self, slot: u32, note: Box<[u8]>) {
        let entry = self.table.at_mut(slot);
        if entry.flags & NOTED == 0 && note.is_empty() {
            return;
        }
        entry.flags = if note.is_empty() { entry.flags & !NOTED } else { entry.flags | NOTED };
        self.table.notes.set(slot, note);
    }

    /// The note of a label that began to wait, now with its headers.
    pub fn add_headers(&mut self, slot: u32, headers: &[u8]) {
        let note = [self.table.notes.get(slot), headers].concat();
        self.note(slot, note.into_boxed_slice());
    }
}

fn check_future(event_ms: i64, timestamp_ms: i64, limits: &Limits) -> Read<()> {
    let at_ms = if timestamp_ms > 0 { timestamp_ms } else { limits.now_ms };
    if event_ms > at_ms.saturating_add(limits.future_ms) { Err(Odd) } else { Ok(()) }
}

/// What the prediction itself says of a segment, in the object that stands at `at`.
fn given_segment<'a>(data: &'a [u8], at: usize, name: &[u8]) -> Read<Option<&'a [u8]>> {
    let mut value = None;
    object_at(data, at, |r, found| {
        let text = r.text()?;
        if *found == *name && value.replace(text).is_some() {
            return Err(Odd);
        }
        Ok(())
    })?;
    Ok(value)
}

fn feature_of<'a>(features: &Features<'a>, name: &[u8]) -> Read<Scalar<'a>> {
    let mut found = features.iter().filter(|feature| *feature.0 == *name);
    let value = found.next().map_or(Scalar::Null, |feature| feature.1);
    if found.next().is_some() { Err(Odd) } else { Ok(value) }
}

/// Whether a label of that time is the prediction's own for sure, and in time; else the reference decides.
fn check_times(plan: &Plan, entry: &Entry, label_ms: i64, until_ms: i64) -> Read<()> {
    let good = label_ms <= entry.event_ms + plan.delay_ms && until_ms > entry.event_ms;
    if good { Ok(()) } else { Err(Odd) }
}

/// Class index and score (NaN: none), and the probabilities by class where there are; twin of `PanePlan.compact`.
fn decided(data: &[u8], p: &Prediction, plan: &Plan, by_class: &mut Vec<f64>) -> Read<(u32, f64)> {
    by_class.clear();
    if plan.task == Task::Regression {
        return as_number(p.prediction).map(|score| (0, score)).ok_or(Odd);
    }
    let mut predicted = plan.class_of(p.prediction).ok_or(Odd)?;
    let mut score = match p.probability {
        Probability::Missing => f64::NAN,
        Probability::One(value) => value,
        Probability::ByClass(at) if plan.task == Task::Binary => of_class(data, at, &plan.positive)?.unwrap_or(f64::NAN),
        Probability::ByClass(at) => {
            let mut room = [0u8; KEY_ROOM];
            let own = key_of(p.prediction, &mut room).ok_or(Odd)?;
            all_classes(data, at, plan, by_class)?;
            of_class(data, at, own)?.unwrap_or(0.0)
        }
    };
    if plan.task == Task::Binary && predicted == plan.classes {
        if score.is_nan() {
            score = as_number(p.prediction).filter(|value| (0.0..=1.0).contains(value)).unwrap_or(f64::NAN);
        }
        if !score.is_nan() {
            predicted = u32::from(score >= plan.threshold);
        }
    }
    Ok((predicted, score))
}

/// The probability of one class in the object that stands at `at`.
fn of_class(data: &[u8], at: usize, class: &[u8]) -> Read<Option<f64>> {
    let mut found = None;
    object_at(data, at, |r, name| {
        let value = probability(&r.number()?)?;
        if *name == *class && found.replace(value).is_some() {
            return Err(Odd);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The probabilities of all classes in the object that stands at `at`; 0 where one is not named.
fn all_classes(data: &[u8], at: usize, plan: &Plan, out: &mut Vec<f64>) -> Read<()> {
    out.resize(plan.classes as usize, f64::NAN);
    object_at(data, at, |r, name| {
        let value = probability(&r.number()?)?;
        if let Some(class) = plan.find_text(name) {
            let place = out.get_mut(class as usize).filter(|place| place.is_nan()).ok_or(Odd)?;
            *place = value;
        }
        Ok(())
    })?;
    out.iter_mut().filter(|place| place.is_nan()).for_each(|place| *place = 0.0);
    Ok(())
}

/// Which feature of the plan has which value; an error where the reference has to say it.
fn placed<'a>(features: &Features<'a>, plan: &Plan, values: &mut Vec<Option<Scalar<'a>>>) -> Read<()> {
    values.clear();
    values.resize(plan.features.len(), None);
    let mut next = 0;
    for &(name, value) in features {
        // Producers send features in one order: the next one is where it was expected, or it is looked for.
        let at = if plan.features.get(next).is_some_and(|feature| *feature.name == *name) {
            next
        } else {
            match plan.features.iter().position(|feature| *feature.name == *name) {
                Some(at) => at,
                None => continue,
            }
        };
        next = at + 1;
        if values[at].is_some() {
            return Err(Odd);
        }
        if let (Scalar::Float(_), Kind::Categorical(_)) = (value, &plan.features[at].kind) {
            // Its text may be one that only the reference makes: asked before anything is counted.
            key_of(value, &mut [0; KEY_ROOM]).ok_or(Odd)?;
        }
        values[at] = Some(value);
    }
    Ok(())
}
