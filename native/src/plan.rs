//! One version's plan, compiled: where every value is counted. Twin of `streams/panes.py`, which stays the definition.

use std::sync::Arc;

use crate::json::Scalar;
use crate::shared::Shared;

/// Texts in order, each with its number.
type Table = [(Box<[u8]>, u32)];

static NAMES: Shared<[u8]> = Shared::new();
static TABLES: Shared<Table> = Shared::new();

const COARSE: f64 = 65536.0;
pub const CLIP: f64 = 256.0 * COARSE;
pub const TO_TAIL: f64 = 256.0 / COARSE;

#[derive(Clone, Copy, PartialEq)]
pub enum Task {
    Binary,
    Regression,
    Multiclass,
}

/// Its numbers stand in `Plan::numbers`, with those of all other features: low, high, mean, unit, then the edges.
pub struct Numeric {
    at: u32,
    edges: u32,
    start: u32,
    missing: u32,
    invalid: u32,
    below: u32,
    above: u32,
    total: u32,
    first_total: u32,
    last_total: u32,
}

pub struct Categorical {
    table: Arc<Table>,
    other: u32,
    missing: u32,
}

pub enum Kind {
    Numeric(Numeric),
    Categorical(Categorical),
}

pub struct Feature {
    pub name: Arc<[u8]>,
    pub kind: Kind,
}

/// Positions of the counters; the order is that of `streams/native/plans.py`.
#[derive(Default)]
pub struct Slots {
    pub predicted: u32,
    pub labelled: u32,
    pub expired: u32,
    pub delay_total: u32,
    pub score_missing: u32,
    pub delay: u32,
    pub scores: u32,
    pub predictions: u32,
    pub confusion: u32,
    pub scored: u32,
    pub brier: u32,
    pub log_loss: u32,
    pub positives: u32,
    pub negatives: u32,
    pub calibration_n: u32,
    pub calibration_hits: u32,
    pub calibration_total: u32,
    pub labels: u32,
    pub clipped: u32,
    pub error: u32,
    pub error_abs: u32,
    pub error_square_high: u32,
    pub error_square_low: u32,
    pub ape: u32,
    pub ape_n: u32,
    pub label_total: u32,
    pub label_square_high: u32,
    pub label_square_low: u32,
    pub truth: u32,
    pub decided: u32,
    pub hits: u32,
    pub ranks: u32,
    pub bin_scored: u32,
    pub bin_error_abs: u32,
}

pub struct Plan {
    pub task: Task,
    pub pane_ms: i64,
    pub delay_ms: i64,
    pub horizon_ms: i64,
    pub classes: u32,
    pub threshold: f64,
    pub any_label: bool,
    pub delay_bins: u32,
    pub calibration_bins: u32,
    pub at: Slots,
    pub edges: Box<[f64]>,
    pub label_edges: Box<[f64]>,
    pub error_scale: f64,
    pub label_mean: f64,
    pub label_std: f64,
    class_ints: Box<[(i64, u32)]>,
    class_texts: Box<[(Box<[u8]>, u32)]>,
    pub positive: Box<[u8]>,
    pub segments: Box<[Box<[u8]>]>,
    pub features: Box<[Feature]>,
    /// So many of them, the first ones, are counted in segments, too.
    pub of_segments: usize,
    /// Of all numeric features, in one piece: with tens of thousands of plans it comes from memory each time.
    numbers: Box<[f64]>,
    /// Name of the layout, for the aggregation.
    pub layout: Box<[u8]>,
}

/// Reads what `streams/native/plans.py` writes.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        if self.0.len() < n {
            return None;
        }
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Some(head)
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
    fn f64(&mut self) -> Option<f64> {
        Some(f64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<Box<[u8]>> {
        let n = self.u32()? as usize;
        Some(self.bytes(n)?.into())
    }
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Box<[T]>> {
        let n = self.u32()? as usize;
        // Every item takes four bytes at least: a damaged count cannot ask for absurd memory.
        if n > self.0.len() / 4 {
            return None;
        }
        (0..n).map(|_| item(self)).collect()
    }
}

impl Plan {
    pub fn read(described: &[u8]) -> Option<Plan> {
        let mut w = Words(described);
        let task = match w.u32()? {
            0 => Task::Binary,
            1 => Task::Regression,
            2 => Task::Multiclass,
            _ => return None,
        };
        let (pane_ms, delay_ms, horizon_ms) = (w.i64()?, w.i64()?, w.i64()?);
        let (classes, any_label, threshold) = (w.u32()?, w.u32()? != 0, w.f64()?);
        let (delay_bins, calibration_bins) = (w.u32()?, w.u32()?);
        let at = Slots {
            predicted: w.u32()?,
            labelled: w.u32()?,
            expired: w.u32()?,
            delay_total: w.u32()?,
            score_missing: w.u32()?,
            delay: w.u32()?,
            scores: w.u32()?,
            predictions: w.u32()?,
            confusion: w.u32()?,
            scored: w.u32()?,
            brier: w.u32()?,
            log_loss: w.u32()?,
            positives: w.u32()?,
            negatives: w.u32()?,
            calibration_n: w.u32()?,
            calibration_hits: w.u32()?,
            calibration_total: w.u32()?,
            labels: w.u32()?,
            clipped: w.u32()?,
            error: w.u32()?,
            error_abs: w.u32()?,
            error_square_high: w.u32()?,
            error_square_low: w.u32()?,
            ape: w.u32()?,
            ape_n: w.u32()?,
            label_total: w.u32()?,
            label_square_high: w.u32()?,
            label_square_low: w.u32()?,
            truth: w.u32()?,
            decided: w.u32()?,
            hits: w.u32()?,
            ranks: w.u32()?,
            bin_scored: w.u32()?,
            bin_error_abs: w.u32()?,
        };
        let edges = w.list(Words::f64)?;
        let label_edges = w.list(Words::f64)?;
        let (error_scale, label_mean, label_std) = (w.f64()?, w.f64()?, w.f64()?);
        let mut class_ints = w.list(|w| Some((w.i64()?, w.u32()?)))?;
        class_ints.sort_unstable();
        let mut class_texts = w.list(|w| Some((w.text()?, w.u32()?)))?;
        class_texts.sort_unstable();
        let positive = w.text()?;
        let segments = w.list(Words::text)?;
        let mut numbers = Vec::new();
        let of_segments = w.u32()? as usize;
        let features = w.list(|w| {
            let name = NAMES.of(w.text()?);
            let kind = if w.u32()? == 0 {
                let (at, start, edges) = (numbers.len() as u32, w.u32()?, w.list(Words::f64)?);
                numbers.extend([w.f64()?, w.f64()?, w.f64()?, w.f64()?]);
                numbers.extend_from_slice(&edges);
                Kind::Numeric(Numeric {
                    at,
                    edges: edges.len() as u32,
                    start,
                    missing: w.u32()?,
                    invalid: w.u32()?,
                    below: w.u32()?,
                    above: w.u32()?,
                    total: w.u32()?,
                    first_total: w.u32()?,
                    last_total: w.u32()?,
                })
            } else {
                let mut table = w.list(|w| Some((w.text()?, w.u32()?)))?;
                table.sort_unstable();
                Kind::Categorical(Categorical { table: TABLES.of(table), other: w.u32()?, missing: w.u32()? })
            };
            Some(Feature { name, kind })
        })?;
        let layout = w.text()?;
        let whole = pane_ms > 0 && w.0.is_empty() && of_segments <= features.len();
        whole.then_some(Plan {
            task, pane_ms, delay_ms, horizon_ms, classes, threshold, any_label, delay_bins, calibration_bins, at, edges,
            label_edges, error_scale, label_mean, label_std,
            class_ints, class_texts, positive, segments, features, of_segments,
            numbers: numbers.into(), layout,
        })
    }

    /// Ask the processor for what the next prediction of this plan needs: with tens of thousands of plans none of it is in
    /// the cache, and waiting for it place by place takes longer than everything else.
    pub fn warm(&self) {
        prefetch(&self.features);
        prefetch(&self.numbers);
        prefetch(&self.edges);
    }

    /// Count a value of a feature with `add(position, count)`. None: ask the reference.
    #[inline]
    pub fn count(&self, feature: &Feature, value: Scalar, add: &mut impl FnMut(u32, i64)) -> Option<()> {
        match &feature.kind {
            Kind::Numeric(numeric) => {
                numeric.count(&self.numbers[numeric.at as usize..], value, add);
                Some(())
            }
            Kind::Categorical(categorical) => categorical.count(value, add),
        }
    }

    /// Start of the pane of an event time.
    pub fn floor(&self, at_ms: i64) -> i64 {
        at_ms - at_ms.rem_euclid(self.pane_ms)
    }

    /// Class index of a prediction or label; `classes` where it is none of the known. None: ask the reference.
    pub fn class_of(&self, value: Scalar) -> Option<u32> {
        if let Some(whole) = whole_number(value) {
            if let Ok(found) = self.class_ints.binary_search_by_key(&whole, |item| item.0) {
                return Some(self.class_ints[found].1);
            }
        }
        let found = match value {
            Scalar::Text(text) => self.find_text(text),
            _ => {
                let mut room = [0u8; KEY_ROOM];
                self.find_text(key_of(value, &mut room)?)
            }
        };
        Some(found.unwrap_or(self.classes))
    }

    /// Index of the class that has this very key.
    pub fn find_text(&self, text: &[u8]) -> Option<u32> {
        find(&self.class_texts, text)
    }

    /// Index of the score bin.
    pub fn score_bin(&self, score: f64) -> u32 {
        bisect_right(&self.edges, score)
    }
}

#[inline]
fn prefetch<T>(values: &[T]) {
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for at in (0..std::mem::size_of_val(values)).step_by(LINE) {
        // Sound: a hint, and the address is inside the slice.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(values.as_ptr().cast::<i8>().add(at)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, LINE);
}

fn find(table: &[(Box<[u8]>, u32)], text: &[u8]) -> Option<u32> {
    table.binary_search_by(|item| (*item.0).cmp(text)).ok().map(|at| table[at].1)
}

/// How many edges are at or below `value`, as Python's `bisect_right`.
#[inline]
pub fn bisect_right(edges: &[f64], value: f64) -> u32 {
    edges.partition_point(|edge| *edge <= value) as u32
}

/// The nearest integer, the even one of two, as Python's `round`; for numbers below 2^51.
#[inline(always)]
pub fn rounded(value: f64) -> i64 {
    // Added to this, a number has no bit left for a fraction: the processor rounds as asked, without a call.
    const SHIFT: f64 = (3u64 << 51) as f64;
    ((value + SHIFT) - SHIFT) as i64
}

fn whole_number(value: Scalar) -> Option<i64> {
    match value {
        Scalar::Int(number) => Some(number),
        Scalar::Bool(yes) => Some(i64::from(yes)),
        Scalar::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(number as i64),
        _ => None,
    }
}

pub const KEY_ROOM: usize = 32;

/// `class_key` of a value: the text under which it is counted. None: its text is for the reference to make.
pub fn key_of<'a>(value: Scalar<'a>, room: &'a mut [u8; KEY_ROOM]) -> Option<&'a [u8]> {
    use std::io::Write;
    if let Scalar::Text(text) = value {
        return Some(text);
    }
    let mut left = &mut room[..];
    if let Some(whole) = whole_number(value) {
        write!(left, "{whole}").ok()?;
    } else if let Scalar::Float(number) = value {
        // In this range Python's repr and Rust's Display write the same shortest digits.
        if !(1e-4..1e15).contains(&number.abs()) {
            return None;
        }
        write!(left, "{number}").ok()?;
    } else {
        return None;
    }
    let free = left.len();
    Some(&room[..KEY_ROOM - free])
}

impl Numeric {
    #[inline]
    fn count(&self, numbers: &[f64], value: Scalar, add: &mut impl FnMut(u32, i64)) {
        let (&[low, high, mean, unit], edges) = numbers.split_first_chunk().expect("four numbers before the edges");
        let edges = &edges[..self.edges as usize];
        let value = match value {
            Scalar::Float(value) => value,
            Scalar::Int(value) => value as f64,
            Scalar::Bool(value) => f64::from(u8::from(value)),
            Scalar::Null => return add(self.missing, 1),
            Scalar::Text(_) => return add(self.invalid, 1),
        };
        let standard = ((value - mean) * unit).clamp(-CLIP, CLIP);
        let bin = bisect_right(edges, value);
        add(self.start + bin, 1);
        if bin == 0 || bin == self.edges {
            let tail = rounded(standard * TO_TAIL);
            if tail != 0 && bin == 0 {
                add(self.first_total, tail);
            }
            if tail != 0 && bin == self.edges {
                add(self.last_total, tail);
            }
        }
        if value < low {
            add(self.below, 1);
        } else if value > high {
            add(self.above, 1);
        }
        let total = rounded(standard);
        if total != 0 {
            add(self.total, total);
        }
    }
}

impl Categorical {
    #[inline]
    fn count(&self, value: Scalar, add: &mut impl FnMut(u32, i64)) -> Option<()> {
        if value == Scalar::Null {
            add(self.missing, 1);
            return Some(());
        }
        let mut room = [0u8; KEY_ROOM];
        let text = key_of(value, &mut room)?;
        add(find(&self.table, text).unwrap_or(self.other), 1);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        let mut state = 1u64;
        let limits = [0.5, -0.5, 1.5, -1.5, 2.5, 0.49999999999999994, -0.0, 4294967295.5, -16777216.5, 1048575.5];
        for value in limits.into_iter().chain((0..100_000).map(|n| {
            state = crate::hash::fold(state ^ n, 0x9e37_79b9_7f4a_7c15);
            (state as i64 as f64) / (1u64 << (20 + n % 40)) as f64
        })) {
            if value.abs() < (1u64 << 51) as f64 {
                assert_eq!(rounded(value), value.round_ties_even() as i64, "{value}");
            }
        }
    }
}
