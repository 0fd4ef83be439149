//! The kernels: ordinary predictions and labels of one partition, in the order of the log.
//!
//! A kernel stops at the first record it does not treat itself, says why, and goes on behind it when it is called again:
//! the reference implementation (`streams/join`) treats that record in between. So the order of the log holds whatever
//! is odd, and every rule that is not written here is written there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::hash;
use crate::log::{self, Block};
use crate::json::{Odd, Read, Reader, Scalar};
use crate::notes::{self, Notes};
use crate::plan::{key_of, Kind, Plan, Task, KEY_ROOM};
use crate::sums::{PaneKey, Sums};
use crate::table::{self, Entry, Table, BOOL, EXPIRED, FLOAT, GONE, INT, LABELLED, NEVER, ODD, PENDING, TEXT, TOUCHED, WAITING};

const FINE: f64 = (1u64 << 20) as f64;
const SMALLEST_PROBABILITY: f64 = 1.0 / (1u64 << 52) as f64;
const MOST_SEGMENT_BYTES: usize = 128;
/// Beyond, new segments and label texts go the reference's way: what is interned is never let go.
const MOST_SYMBOLS: usize = 1 << 20;
pub const LATEST_MS: i64 = 253_402_300_800_000;

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

/// Texts and lists of them as numbers.
#[derive(Default)]
pub struct Interner<T: std::hash::Hash + Eq + Clone> {
    pub items: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: std::hash::Hash + Eq + Clone> Interner<T> {
    pub fn put(&mut self, item: T) -> Option<u32> {
        if let Some(&number) = self.numbers.get(&item) {
            return Some(number);
        }
        if self.items.len() >= MOST_SYMBOLS {
            return None;
        }
        let number = self.items.len() as u32;
        self.items.push(item.clone());
        self.numbers.insert(item, number);
        Some(number)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Known {
    Plan(u32),
    Skip,
}

#[derive(Default)]
struct Versions {
    of: Vec<(i64, Known)>,
}

/// Records of one topic, as Python hands them over for the time of one call.
pub struct Records<'a> {
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

impl<'a> Records<'a> {
    fn value(&self, at: usize) -> &'a [u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.data[start..self.ends[at] as usize]
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
    pub notes: Notes,
    /// Slot and record of labels that began to wait and whose headers are still to be told.
    pub bare: Vec<(u32, u32)>,
    pub plans: Vec<Arc<Plan>>,
    pub plan_names: Vec<(Box<[u8]>, i64)>,
    versions: HashMap<Box<[u8]>, Versions>,
    pub texts: Interner<Box<[u8]>>,
    pub segments: Interner<Box<[u32]>>,
    pub undo: Vec<(u32, Option<Entry>)>,
    pub sums: Sums,
    pub counts: Counts,
    pub live: HashMap<u32, i64>,
    pub generation: u32,
    pub watermark_ms: i64,
    pub silent: bool,
    /// Of the version that a kernel did not know.
    pub asked: (Vec<u8>, i64),
    key: Vec<u8>,
    segment_ids: Vec<u32>,
}

struct Prediction<'a> {
    id: &'a [u8],
    model: &'a [u8],
    version: i64,
    event_ms: i64,
    features: usize,
    prediction: Scalar<'a>,
    probability: Option<usize>,
    segment: Option<usize>,
}

struct Label<'a> {
    id: &'a [u8],
    event_ms: i64,
    label: Scalar<'a>,
    revision: u16,
}

fn once(seen: &mut u32, bit: u32) -> Read<()> {
    // The last of two members of one name would count: rare enough for the reference.
    if *seen & (1 << bit) != 0 {
        return Err(Odd);
    }
    *seen |= 1 << bit;
    Ok(())
}

fn read_prediction(data: &[u8]) -> Read<Prediction<'_>> {
    let mut seen = 0;
    let mut p = Prediction {
        id: b"", model: b"", version: 0, event_ms: 0, features: 0, prediction: Scalar::Null, probability: None, segment: None,
    };
    let mut reader = Reader::new(data);
    reader.object(|r, name| {
        match name {
            b"prediction_id" => {
                once(&mut seen, 0)?;
                p.id = r.text()?;
            }
            b"model" => {
                once(&mut seen, 1)?;
                p.model = r.text()?;
            }
            b"version" => {
                once(&mut seen, 2)?;
                p.version = r.int()?;
            }
            b"event_time_ms" => {
                once(&mut seen, 3)?;
                p.event_ms = r.int()?;
            }
            b"features" => {
                once(&mut seen, 4)?;
                p.features = r.at;
                r.object(|r, _| r.scalar().map(|_| ()))?;
            }
            b"prediction" => {
                once(&mut seen, 5)?;
                p.prediction = r.scalar()?;
            }
            b"probability" => {
                once(&mut seen, 6)?;
                if r.is_null() {
                    r.scalar()?;
                } else {
                    p.probability = Some(r.at);
                    if r.is_object() {
                        r.object(|r, _| probability(r).map(|_| ()))?;
                    } else {
                        probability(r)?;
                    }
                }
            }
            b"segment" => {
                once(&mut seen, 7)?;
                if r.is_null() {
                    r.scalar()?;
                } else {
                    p.segment = Some(r.at);
                    r.object(|r, _| r.text().map(|_| ()))?;
                }
            }
            b"schema_version" => {
                once(&mut seen, 8)?;
                if r.int()? != 1 {
                    return Err(Odd);
                }
            }
            _ => r.skip(0)?,
        }
        Ok(())
    })?;
    reader.end()?;
    let whole = seen & 0x3f == 0x3f && !p.id.is_empty() && p.prediction != Scalar::Null;
    if whole && (0..LATEST_MS).contains(&p.event_ms) { Ok(p) } else { Err(Odd) }
}

fn read_label(data: &[u8]) -> Read<Label<'_>> {
    let mut seen = 0;
    let mut l = Label { id: b"", event_ms: 0, label: Scalar::Null, revision: 0 };
    let mut reader = Reader::new(data);
    reader.object(|r, name| {
        match name {
            b"prediction_id" => {
                once(&mut seen, 0)?;
                l.id = r.text()?;
            }
            b"event_time_ms" => {
                once(&mut seen, 1)?;
                l.event_ms = r.int()?;
            }
            b"label" => {
                once(&mut seen, 2)?;
                l.label = r.scalar()?;
            }
            b"revision" => {
                once(&mut seen, 3)?;
                l.revision = u16::try_from(r.int()?).map_err(|_| Odd)?;
            }
            b"schema_version" => {
                once(&mut seen, 4)?;
                if r.int()? != 1 {
                    return Err(Odd);
                }
            }
            _ => r.skip(0)?,
        }
        Ok(())
    })?;
    reader.end()?;
    let whole = seen & 7 == 7 && !l.id.is_empty() && l.label != Scalar::Null;
    if whole && (0..LATEST_MS).contains(&l.event_ms) { Ok(l) } else { Err(Odd) }
}

fn probability(reader: &mut Reader) -> Read<f64> {
    let value = match reader.number()? {
        Scalar::Int(value) => value as f64,
        Scalar::Float(value) => value,
        _ => return Err(Odd),
    };
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(Odd) }
}

fn as_number(value: Scalar) -> Option<f64> {
    match value {
        Scalar::Int(value) => Some(value as f64),
        Scalar::Float(value) => Some(value),
        Scalar::Bool(value) => Some(f64::from(u8::from(value))),
        _ => None,
    }
}

fn id_of(text: &[u8]) -> [u64; 2] {
    let id = hash::id(text);
    [(id >> 64) as u64, id as u64]
}

impl Partition {
    pub fn new() -> Self {
        Partition {
            table: Table::default(), notes: Notes::default(), bare: Vec::new(), plans: Vec::new(), plan_names: Vec::new(), versions: HashMap::new(),
            texts: Interner { items: Vec::new(), numbers: HashMap::new() },
            segments: Interner { items: Vec::new(), numbers: HashMap::new() },
            undo: Vec::new(), sums: Sums::new(), counts: Counts::default(), live: HashMap::new(),
            generation: 0, watermark_ms: i64::MIN, silent: false, asked: (Vec::new(), 0),
            key: Vec::new(), segment_ids: Vec::new(),
        }
    }

    // ------------------------------------------------------------------------------------------- versions

    pub fn know(&mut self, model: &[u8], version: i64, plan: Option<Arc<Plan>>) -> u32 {
        let known = match plan {
            None => Known::Skip,
            Some(plan) => {
                self.plans.push(plan);
                self.plan_names.push((model.into(), version));
                Known::Plan(self.plans.len() as u32 - 1)
            }
        };
        let versions = self.versions.entry(model.into()).or_default();
        versions.of.retain(|item| item.0 != version);
        versions.of.push((version, known));
        match known {
            Known::Plan(number) => number,
            Known::Skip => table::NONE,
        }
    }

    /// Give a version that came out of a checkpoint its plan.
    pub fn replace(&mut self, number: u32, plan: Arc<Plan>) -> Option<()> {
        *self.plans.get_mut(number as usize)? = plan;
        Some(())
    }

    /// What is not registered may be from the next batch on.
    pub fn forget_skipped(&mut self) {
        self.versions.retain(|_, versions| {
            versions.of.retain(|item| item.1 != Known::Skip);
            !versions.of.is_empty()
        });
    }

    pub fn known(&self, model: &[u8], version: i64) -> Option<Known> {
        self.versions.get(model)?.of.iter().find(|item| item.0 == version).map(|item| item.1)
    }

    // -------------------------------------------------------------------------------------------- kernels

    pub fn run_predictions(&mut self, records: &Records, from: usize, limits: &Limits) -> (usize, u32) {
        for at in from..records.ends.len() {
            if records.marks[at] & ODD_RECORD != 0 {
                return (at, REFERENCE);
            }
            match self.prediction(records.value(at), records.timestamps_ms[at], limits) {
                Ok(ALL_DONE) => {}
                Ok(why) => return (at, why),
                Err(Odd) => return (at, REFERENCE),
            }
        }
        (records.ends.len(), ALL_DONE)
    }

    pub fn run_labels(&mut self, records: &Records, from: usize, limits: &Limits) -> (usize, u32) {
        for at in from..records.ends.len() {
            if records.marks[at] & ODD_RECORD != 0 {
                return (at, REFERENCE);
            }
            match self.label(records, at, limits) {
                Ok(ALL_DONE) => {}
                Ok(why) => return (at, why),
                Err(Odd) => return (at, REFERENCE),
            }
        }
        (records.ends.len(), ALL_DONE)
    }

    fn prediction(&mut self, data: &[u8], timestamp_ms: i64, limits: &Limits) -> Read<u32> {
        if data.len() > limits.most_bytes {
            return Err(Odd);
        }
        let p = read_prediction(data)?;
        check_future(p.event_ms, timestamp_ms, limits)?;
        let number = match self.known(p.model, p.version) {
            Some(Known::Plan(number)) => number,
            Some(Known::Skip) => {
                self.counts.predictions_skipped += 1;
                return Ok(ALL_DONE);
            }
            None => {
                self.asked = (p.model.to_vec(), p.version);
                return Ok(UNKNOWN_VERSION);
            }
        };
        let plan = Arc::clone(&self.plans[number as usize]);
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
                Some(slot) => self.first_to(slot, data, &p, &plan, entry)?,
                None => self.first(data, &p, &plan, entry)?,
            }
        }
        self.counts.newest_prediction_ms = self.counts.newest_prediction_ms.max(p.event_ms);
        Ok(ALL_DONE)
    }

    /// The first record of its id; nothing is changed where it turns out odd.
    fn first(&mut self, data: &[u8], p: &Prediction, plan: &Plan, mut entry: Entry) -> Read<()> {
        self.begin(data, p, plan, &mut entry)?;
        let slot = self.table.insert(entry);
        self.table.at_mut(slot).flags |= TOUCHED;
        self.undo.push((slot, None));
        *self.live.entry(self.generation).or_default() += 1;
        self.counts.pending += 1;
        Ok(())
    }

    /// The first prediction of its id, where a label waits for it; nothing is changed where either turns out odd.
    fn first_to(&mut self, slot: u32, data: &[u8], p: &Prediction, plan: &Plan, mut entry: Entry) -> Read<()> {
        let waiting = *self.table.at(slot);
        check_times(plan, &entry, waiting.label_ms, waiting.keep_ms)?;
        let truth = truth_of(plan, self.label_of(&waiting))?;
        self.begin(data, p, plan, &mut entry)?;
        self.touch(slot);
        let Entry { due_ms, next, prev, flags, .. } = *self.table.at(slot);
        *self.table.at_mut(slot) = Entry {
            keep_ms: entry.keep_ms.max(waiting.keep_ms), generation: waiting.generation, state: LABELLED,
            label: waiting.label, label_kind: waiting.label_kind, label_ms: waiting.label_ms, revision: waiting.revision,
            due_ms, next, prev, flags, ..entry
        };
        self.notes.set(slot, Box::default());
        if !self.silent {
            self.labelled(&entry, plan, truth, waiting.label_ms);
        }
        self.counts.labels_waiting -= 1;
        self.counts.labels_matched += 1;
        self.counts.labelled += 1;
        Ok(())
    }

    /// Fill in what is to be known of a prediction, and count it.
    fn begin(&mut self, data: &[u8], p: &Prediction, plan: &Plan, entry: &mut Entry) -> Read<()> {
        let (predicted, score) = decided(data, p, plan)?;
        entry.predicted = u16::try_from(predicted).map_err(|_| Odd)?;
        entry.score = score.unwrap_or(f64::NAN);
        entry.segments = self.segments_of(data, p, plan)?;
        if !self.silent {
            self.traffic(data, p, plan, entry)?;
        }
        self.counts.predictions += 1;
        Ok(())
    }

    fn traffic(&mut self, data: &[u8], p: &Prediction, plan: &Plan, entry: &Entry) -> Read<()> {
        let pane_ms = plan.floor(entry.event_ms);
        let pane = |segment| PaneKey { plan: entry.plan, segment, pane_ms, effect_ms: pane_ms };
        let empty = self.texts.put(Box::default()).ok_or(Odd)?;
        let overall = self.sums.pane(pane(empty));
        // Features first: they may still turn out odd, and then nothing is counted.
        let sums = &mut self.sums;
        count_features(data, p, plan, &mut |position, count| sums.add(overall, position, count))?;
        let at = &plan.at;
        let score = if entry.score.is_nan() { at.score_missing } else { at.scores + plan.score_bin(entry.score) };
        for index in 0..self.segments.items[entry.segments as usize].len() {
            let segment = self.segments.items[entry.segments as usize][index];
            let number = self.sums.pane(pane(segment));
            self.sums.add(number, at.predicted, 1);
            self.sums.add(number, score, 1);
            if plan.classes > 0 {
                self.sums.add(number, at.predictions + u32::from(entry.predicted), 1);
            }
        }
        Ok(())
    }

    fn segments_of(&mut self, data: &[u8], p: &Prediction, plan: &Plan) -> Read<u32> {
        self.segment_ids.clear();
        self.segment_ids.push(self.texts.put(Box::default()).ok_or(Odd)?);
        for name in &plan.segments {
            let mut value = Scalar::Null;
            if let Some(at) = p.segment {
                let mut reader = Reader::new(data);
                reader.at = at;
                reader.object(|r, found| {
                    let text = r.text()?;
                    if *found == **name {
                        if value != Scalar::Null {
                            return Err(Odd);
                        }
                        value = Scalar::Text(text);
                    }
                    Ok(())
                })?;
            }
            if value == Scalar::Null {
                let mut seen = false;
                let mut reader = Reader::new(data);
                reader.at = p.features;
                reader.object(|r, found| {
                    let scalar = r.scalar()?;
                    if *found == **name {
                        if seen {
                            return Err(Odd);
                        }
                        (seen, value) = (true, scalar);
                    }
                    Ok(())
                })?;
            }
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
            let known = self.texts.numbers.get(&self.key[..]).copied();
            let number = known.or_else(|| self.texts.put(self.key.as_slice().into())).ok_or(Odd)?;
            self.segment_ids.push(number);
        }
        let known = self.segments.numbers.get(&self.segment_ids[..]).copied();
        known.or_else(|| self.segments.put(self.segment_ids.as_slice().into())).ok_or(Odd)
    }

    fn label(&mut self, records: &Records, at: usize, limits: &Limits) -> Read<u32> {
        let data = records.value(at);
        if data.len() > limits.most_bytes {
            return Err(Odd);
        }
        let l = read_label(data)?;
        check_future(l.event_ms, records.timestamps_ms[at], limits)?;
        let until_ms = l.event_ms + limits.horizon_ms + 1;
        let id = id_of(l.id);
        match self.table.find(id) {
            Some(slot) => self.label_to(slot, &l, until_ms)?,
            None if records.offsets.is_empty() => return Ok(LABEL_RECORDS),
            None => self.wait(id, &l, until_ms, records, at)?,
        }
        self.counts.labels += 1;
        self.counts.newest_label_ms = self.counts.newest_label_ms.max(l.event_ms);
        Ok(ALL_DONE)
    }

    fn label_to(&mut self, slot: u32, l: &Label, until_ms: i64) -> Read<()> {
        let entry = *self.table.at(slot);
        if entry.state != PENDING && entry.state != LABELLED {
            return Err(Odd);
        }
        let plan = Arc::clone(&self.plans[entry.plan as usize]);
        if entry.state == LABELLED {
            let (kind, bits) = self.label_bits(l.label)?;
            let same = entry.label_ms == l.event_ms && entry.revision == l.revision && entry.label_kind == kind && entry.label == bits;
            if !same || until_ms > entry.keep_ms || until_ms <= entry.event_ms {
                return Err(Odd);
            }
            self.counts.labels_duplicate += 1;
            return Ok(());
        }
        check_times(&plan, &entry, l.event_ms, until_ms)?;
        let truth = truth_of(&plan, l.label)?;
        let (kind, bits) = self.label_bits(l.label)?;
        if !self.silent {
            self.labelled(&entry, &plan, truth, l.event_ms);
        }
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
    fn wait(&mut self, id: [u64; 2], l: &Label, until_ms: i64, records: &Records, at: usize) -> Read<()> {
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
        self.notes.set(slot, records.note(at));
        if records.marks[at] & HAS_HEADERS != 0 {
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
            Scalar::Text(text) => {
                let known = self.texts.numbers.get(text).copied();
                (TEXT, u64::from(known.or_else(|| self.texts.put(text.into())).ok_or(Odd)?))
            }
            Scalar::Null => return Err(Odd),
        })
    }

    /// Contribution of a first label to a binary model; twin of `PanePlan.labelled`.
    fn labelled(&mut self, entry: &Entry, plan: &Plan, truth: u32, label_ms: i64) {
        let at = &plan.at;
        let delay_s = (label_ms - entry.event_ms).max(0) / 1000;
        let (pane_ms, effect_ms) = (plan.floor(entry.event_ms), plan.floor(label_ms.max(entry.event_ms)));
        let score = entry.score;
        let hit = truth == 1;
        let miss = f64::from(u8::from(hit)) - score;
        let of_truth = if hit { score } else { 1.0 - score };
        let bin = ((score * f64::from(plan.calibration_bins)) as u32).min(plan.calibration_bins - 1);
        let edges = plan.score_bin(score);
        for index in 0..self.segments.items[entry.segments as usize].len() {
            let segment = self.segments.items[entry.segments as usize][index];
            let pane = self.sums.pane(PaneKey { plan: entry.plan, segment, pane_ms, effect_ms });
            let mut add = |position, count| self.sums.add(pane, position, count);
            add(at.labelled, 1);
            add(at.delay + delay_bin(delay_s as u64).min(plan.delay_bins - 1), 1);
            add(at.delay_total, delay_s);
            add(at.confusion + truth * (plan.classes + 1) + u32::from(entry.predicted), 1);
            if score.is_nan() {
                continue;
            }
            add(if hit { at.positives } else { at.negatives } + edges, 1);
            add(at.calibration_n + bin, 1);
            if hit {
                add(at.calibration_hits + bin, 1);
            }
            add(at.calibration_total + bin, fixed(score));
            add(at.brier, fixed(miss * miss));
            add(at.scored, 1);
            add(at.log_loss, fixed(-of_truth.max(SMALLEST_PROBABILITY).ln()));
        }
    }

    // ----------------------------------------------------------------------------------------------- time

    pub fn advance(&mut self, watermark_ms: i64) {
        let mut due = Vec::new();
        self.table.take_due(watermark_ms, &mut due);
        for slot in due {
            let entry = *self.table.at(slot);
            self.touch(slot);
            if entry.state == WAITING {
                self.counts.labels_waiting -= 1;
                self.counts.labels_orphaned += 1;
                self.notes.set(slot, Box::default());
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
    }

    fn expire(&mut self, entry: &Entry, until_ms: i64) {
        self.counts.pending -= 1;
        self.counts.expired += 1;
        if self.silent {
            return;
        }
        let plan = Arc::clone(&self.plans[entry.plan as usize]);
        let (pane_ms, effect_ms) = (plan.floor(entry.event_ms), plan.floor(until_ms.max(entry.event_ms)));
        for index in 0..self.segments.items[entry.segments as usize].len() {
            let segment = self.segments.items[entry.segments as usize][index];
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
                if self.table.at(slot).state == WAITING {
                    self.notes.set(slot, Box::default());
                }
                self.table.due(slot, NEVER);
                self.table.at_mut(slot).state = ODD;
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
        *self.table.at_mut(slot) = Entry { id, flags: TOUCHED, due_ms: NEVER, next: table::NONE, prev: table::NONE, ..entry };
        self.table.due(slot, entry.due_ms);
        if !note.is_empty() {
            self.notes.set(slot, note.into());
        }
    }

    /// The note of a label that began to wait, now with its headers.
    pub fn add_headers(&mut self, slot: u32, headers: &[u8]) {
        let note = [self.notes.get(slot), headers].concat();
        self.notes.set(slot, note.into_boxed_slice());
    }

    /// The batch counts. Writes what changed: entries as they are now, and for those that left, their id and GONE.
    pub fn commit(&mut self, out: &mut Vec<u8>) {
        let mut block = Block::begin(out);
        for (slot, before) in std::mem::take(&mut self.undo) {
            let entry = self.table.at_mut(slot);
            entry.flags &= !TOUCHED;
            let entry = *entry;
            if ordinary(entry.state) {
                block.add(&entry, self.notes.get(slot));
            } else {
                if before.is_some_and(|before| ordinary(before.state)) {
                    block.add(&Entry { id: entry.id, state: GONE, ..Entry::default() }, &[]);
                }
                if entry.state == GONE {
                    self.table.remove(slot);
                }
            }
        }
        block.end();
        self.notes.commit();
        self.clear();
    }

    /// Write ordinary entries out, so many slots from one on.
    pub fn export(&self, from: u32, slots: u32, out: &mut Vec<u8>) {
        let mut block = Block::begin(out);
        for slot in from..self.table.slots().min(from.saturating_add(slots)) {
            let entry = self.table.at(slot);
            if ordinary(entry.state) {
                block.add(entry, self.notes.get(slot));
            }
        }
        block.end();
    }

    pub fn abort(&mut self) {
        for (slot, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            match before {
                Some(before) => self.table.restore(slot, before),
                None => self.table.remove(slot),
            }
        }
        self.notes.abort();
        self.clear();
    }

    fn clear(&mut self) {
        self.bare.clear();
        self.sums.clear();
        self.counts = Counts::default();
        self.live.clear();
    }

    /// Take in what `commit` or `export` wrote; None where it is damaged.
    pub fn load(&mut self, bytes: &[u8]) -> Option<()> {
        log::read(bytes, |entry, note| {
            let entry = Entry { flags: 0, ..entry };
            if let Some(slot) = self.table.find(entry.id) {
                self.notes.put(slot, &[]);
                self.table.remove(slot);
            }
            if entry.state == GONE {
                return Some(());
            }
            let known = (entry.plan as usize) < self.plans.len() && (entry.segments as usize) < self.segments.items.len();
            let text = entry.label_kind != TEXT || (entry.label as usize) < self.texts.items.len();
            if !ordinary(entry.state) || !(known || entry.state == WAITING) || !text || entry.due_ms == NEVER {
                return None;
            }
            let slot = self.table.insert(entry);
            self.notes.put(slot, note);
            Some(())
        })
    }
}

/// The native table holds it whole.
fn ordinary(state: u8) -> bool {
    matches!(state, PENDING | LABELLED | EXPIRED | WAITING)
}

fn check_future(event_ms: i64, timestamp_ms: i64, limits: &Limits) -> Read<()> {
    let at_ms = if timestamp_ms > 0 { timestamp_ms } else { limits.now_ms };
    if event_ms > at_ms.saturating_add(limits.future_ms) { Err(Odd) } else { Ok(()) }
}

fn fixed(value: f64) -> i64 {
    (value * FINE).round_ties_even() as i64
}

/// Whole seconds below 16 have bins of their own, then eight an octave (`streams/metrics/delay.py`).
fn delay_bin(delay_s: u64) -> u32 {
    let length = 64 - delay_s.leading_zeros();
    let shift = length.saturating_sub(4);
    8 * shift + (delay_s >> shift) as u32
}

/// Whether a label of that time is the prediction's own for sure, and in time; else the reference decides.
fn check_times(plan: &Plan, entry: &Entry, label_ms: i64, until_ms: i64) -> Read<()> {
    let good = label_ms <= entry.event_ms + plan.delay_ms && until_ms > entry.event_ms;
    if good { Ok(()) } else { Err(Odd) }
}

/// What a label says to a model that takes it; twin of `PanePlan.accepts`.
fn truth_of(plan: &Plan, label: Scalar) -> Read<u32> {
    if plan.task != Task::Binary {
        return Err(Odd);
    }
    let truth = plan.class_of(label).ok_or(Odd)?;
    match truth < plan.classes {
        true => Ok(truth),
        false if plan.any_label => Ok(0),
        false => Err(Odd),
    }
}

/// Class index and score; twin of `PanePlan.compact`.
fn decided(data: &[u8], p: &Prediction, plan: &Plan) -> Read<(u32, Option<f64>)> {
    if plan.task == Task::Regression {
        return as_number(p.prediction).map(|score| (0, Some(score))).ok_or(Odd);
    }
    let mut predicted = plan.class_of(p.prediction).ok_or(Odd)?;
    let mut score = None;
    if let Some(at) = p.probability {
        let mut reader = Reader::new(data);
        reader.at = at;
        if !reader.is_object() {
            score = Some(probability(&mut reader)?);
        } else if plan.task == Task::Multiclass {
            return Err(Odd);
        } else {
            reader.object(|r, name| {
                let value = probability(r)?;
                if *name == *plan.positive {
                    if score.is_some() {
                        return Err(Odd);
                    }
                    score = Some(value);
                }
                Ok(())
            })?;
        }
    }
    if plan.task == Task::Binary && predicted == plan.classes {
        if score.is_none() {
            score = as_number(p.prediction).filter(|value| (0.0..=1.0).contains(value));
        }
        if let Some(score) = score {
            predicted = u32::from(score >= plan.threshold);
        }
    }
    Ok((predicted, score))
}

/// Count all features with `add`; nothing is counted where one turns out odd.
fn count_features(data: &[u8], p: &Prediction, plan: &Plan, add: &mut impl FnMut(u32, i64)) -> Read<()> {
    let mut values = vec![None; plan.features.len()];
    let mut next = 0;
    let mut reader = Reader::new(data);
    reader.at = p.features;
    reader.object(|r, name| {
        let value = r.scalar()?;
        // Producers send features in one order: the next one is where it was expected, or it is looked for.
        let at = if plan.features.get(next).is_some_and(|feature| *feature.name == *name) {
            next
        } else {
            match plan.features.iter().position(|feature| *feature.name == *name) {
                Some(at) => at,
                None => return Ok(()),
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
        Ok(())
    })?;
    for (feature, value) in plan.features.iter().zip(values) {
        feature.count(value.unwrap_or(Scalar::Null), add).ok_or(Odd)?;
    }
    Ok(())
}
