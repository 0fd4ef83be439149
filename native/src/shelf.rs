//! What waits in the aggregation: contributions of every series of one partition of `joined-deltas`, by effect's pane,
//! segment and pane, until the effect's pane is complete. Twin of `streams/pending.py`, which stays the definition.
//!
//! A contribution is appended as it came and added up once enough has come: adding up costs by the call. Between `begin`
//! and `commit` nothing is added up, so that `abort` only has to cut off what came.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::msgpack::{array, binary, int, text, Unpacker};
use crate::sums::{add_up, pack, unpack, Quick};

/// Bytes that wait beside the sum at least before they are added to it.
const LEAST_PARTS: usize = 1_024;

/// Why `merge` stopped.
pub const ALL_DONE: u32 = 0;
/// Not a batch of deltas, or damaged: the reference says what it is.
pub const OTHER: u32 = 1;
/// The delta is of a series that is not known, has another layout, or is held.
pub const ASK: u32 = 2;

type Key<'a> = (i64, &'a [u8], i64);

struct Pending {
    effect_ms: i64,
    segment: Box<[u8]>,
    pane_ms: i64,
    /// Packed sum.
    sum: Box<[u8]>,
    /// What is not yet in the sum: length (u32) and packed counters, one after the other.
    parts: Vec<u8>,
    /// Batch that last grew it.
    batch: u32,
}

impl Pending {
    fn key(&self) -> Key<'_> {
        (self.effect_ms, &self.segment, self.pane_ms)
    }

    fn grow(&mut self, counters: &[u8]) {
        self.parts.extend_from_slice(&(counters.len() as u32).to_le_bytes());
        self.parts.extend_from_slice(counters);
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.parts[..];
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_first_chunk::<4>()?;
            let len = u32::from_le_bytes(*head) as usize;
            let piece = tail.get(..len)?;
            rest = &tail[len..];
            Some(piece)
        })
    }

    fn is_long(&self) -> bool {
        self.parts.len() > LEAST_PARTS.max(self.sum.len())
    }

    /// Packed sum of all; None where something is damaged.
    fn total(&self, scratch: &mut Scratch) -> Option<Vec<u8>> {
        if self.parts.is_empty() {
            return Some(self.sum.to_vec());
        }
        scratch.sum(std::iter::once(&self.sum[..]).chain(self.pieces()))
    }

    /// Add up what came; damaged parts stay as they are, and are found when they are asked for.
    fn fold(&mut self, scratch: &mut Scratch) {
        if let Some(total) = self.total(scratch) {
            self.sum = total.into();
            self.parts = Vec::new();
        }
    }
}

/// Adds packed counters up: in an array where positions are small, by sorting otherwise.
#[derive(Default)]
struct Scratch {
    dense: Vec<i64>,
    sparse: Vec<(u32, i64)>,
}

const DENSE: usize = 1 << 17;

impl Scratch {
    fn sum<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
        let Scratch { dense, sparse } = self;
        dense.clear();
        sparse.clear();
        for part in parts {
            unpack(part, |position, count| {
                if position < DENSE {
                    if position >= dense.len() {
                        dense.resize(position + 1, 0);
                    }
                    dense[position] = dense[position].wrapping_add(count);
                } else {
                    sparse.push((u32::try_from(position).ok()?, count));
                }
                Some(())
            })?;
        }
        add_up(sparse);
        let low = dense.iter().enumerate().filter(|(_, count)| **count != 0).map(|(at, count)| (at as u32, *count));
        let counters: Vec<_> = low.chain(sparse.iter().copied()).collect();
        let mut out = Vec::new();
        pack(&counters, &mut out);
        Some(out)
    }
}

struct Series {
    model: Box<[u8]>,
    version: i64,
    layout: Box<[u8]>,
    /// Effects before it count at it.
    frontier_ms: Option<i64>,
    /// Whether news of it were told and not yet asked for.
    dirty: bool,
    held: bool,
    /// By key.
    pending: Vec<Pending>,
}

impl Series {
    fn find(&self, key: Key) -> Result<usize, usize> {
        self.pending.binary_search_by(|item| item.key().cmp(&key))
    }

    fn first(&self) -> Option<i64> {
        self.pending.first().map(|item| item.effect_ms)
    }
}

enum Undo {
    /// A pending was this long.
    Grew { series: u32, effect_ms: i64, segment: Box<[u8]>, pane_ms: i64, parts: usize },
    Created { series: u32, effect_ms: i64, segment: Box<[u8]>, pane_ms: i64 },
    Taken { series: u32, pending: Vec<Pending>, frontier_ms: Option<i64> },
    Opened { series: u32 },
    Layout { series: u32, layout: Box<[u8]> },
    Removed { series: u32, what: Box<Series> },
}

/// Versions of each model with their numbers.
type Numbers = HashMap<Box<[u8]>, Vec<(i64, u32)>, BuildHasherDefault<Quick>>;

#[derive(Default)]
pub struct Shelf {
    series: Vec<Option<Series>>,
    free: Vec<u32>,
    /// Numbers that become free with the batch.
    freed: Vec<u32>,
    numbers: Numbers,
    undo: Option<Vec<Undo>>,
    batch: u32,
    scratch: Scratch,
    /// Series with news since they were last asked for, and those whose first effect is earlier now.
    pub news: Vec<u32>,
    pub earlier: Vec<u32>,
}

struct Delta<'a> {
    model: &'a [u8],
    version: i64,
    layout: &'a [u8],
    panes: usize,
}

fn read_delta<'a>(read: &mut Unpacker<'a>) -> Option<Delta<'a>> {
    if read.array()? != 6 || read.text()? != b"delta" {
        return None;
    }
    let (model, version, layout) = (read.text()?, read.int()?, read.text()?);
    read.int()?;
    Some(Delta { model, version, layout, panes: read.array()? })
}

fn read_pane<'a>(read: &mut Unpacker<'a>) -> Option<(Key<'a>, &'a [u8])> {
    if read.array()? != 4 {
        return None;
    }
    let (segment, pane_ms, effect_ms) = (read.text()?, read.int()?, read.int()?);
    Some(((effect_ms, segment, pane_ms), read.binary()?))
}

fn read_head(read: &mut Unpacker) -> Option<usize> {
    if read.array()? != 2 || read.text()? != b"deltas" {
        return None;
    }
    read.array()
}

/// The bytes of the delta that begins at `at`.
pub fn about(record: &[u8], at: usize) -> Option<&[u8]> {
    let rest = record.get(at..)?;
    let mut read = Unpacker(rest);
    for _ in 0..read_delta(&mut read)?.panes {
        read_pane(&mut read)?;
    }
    Some(&rest[..rest.len() - read.0.len()])
}

fn is_whole(record: &[u8]) -> bool {
    let mut read = Unpacker(record);
    let walk = |read: &mut Unpacker| {
        for _ in 0..read_head(read)? {
            for _ in 0..read_delta(read)?.panes {
                read_pane(read)?;
            }
        }
        read.0.is_empty().then_some(())
    };
    walk(&mut read).is_some()
}

impl Shelf {
    /// Take a record in, from byte `from` on (0: its beginning). Gives the byte it stopped at and why; a delta begins there.
    pub fn merge(&mut self, record: &[u8], from: usize) -> (usize, u32) {
        if from == 0 && !is_whole(record) {
            return (0, OTHER);
        }
        let mut read = Unpacker(record);
        let mut at = from;
        if from == 0 {
            read_head(&mut read);
            at = record.len() - read.0.len();
        }
        while at < record.len() {
            let mut read = Unpacker(&record[at..]);
            let Some(delta) = read_delta(&mut read) else { return (at, OTHER) };
            let Some(number) = self.number(delta.model, delta.version) else { return (at, ASK) };
            let series = self.of(number);
            if series.held || *series.layout != *delta.layout {
                return (at, ASK);
            }
            for _ in 0..delta.panes {
                let Some((key, counters)) = read_pane(&mut read) else { return (at, OTHER) };
                self.add(number, key, counters);
            }
            let series = self.of_mut(number);
            if !series.dirty {
                series.dirty = true;
                self.news.push(number);
            }
            at = record.len() - read.0.len();
        }
        (at, ALL_DONE)
    }

    fn of(&self, number: u32) -> &Series {
        self.series[number as usize].as_ref().unwrap()
    }

    fn of_mut(&mut self, number: u32) -> &mut Series {
        self.series[number as usize].as_mut().unwrap()
    }

    pub fn number(&self, model: &[u8], version: i64) -> Option<u32> {
        let of = self.numbers.get(model)?;
        of.iter().find(|(known, _)| *known == version).map(|(_, number)| *number)
    }

    /// Add a contribution.
    pub fn add(&mut self, number: u32, key: Key, counters: &[u8]) {
        let (undo, batch) = (&mut self.undo, self.batch);
        let series = self.series[number as usize].as_mut().unwrap();
        let effect_ms = series.frontier_ms.map_or(key.0, |frontier| key.0.max(frontier));
        let key = (effect_ms, key.1, key.2);
        let before = series.first();
        let found = series.find(key);
        let at = found.unwrap_or_else(|at| at);
        if found.is_err() {
            let fresh = Pending {
                effect_ms, segment: key.1.into(), pane_ms: key.2, sum: Box::default(), parts: Vec::new(), batch,
            };
            series.pending.insert(at, fresh);
            if let Some(undo) = undo {
                undo.push(Undo::Created { series: number, effect_ms, segment: key.1.into(), pane_ms: key.2 });
            }
        }
        let pending = &mut series.pending[at];
        if let (Some(undo), true) = (undo.as_mut(), pending.batch != batch) {
            pending.batch = batch;
            let parts = pending.parts.len();
            undo.push(Undo::Grew { series: number, effect_ms, segment: key.1.into(), pane_ms: key.2, parts });
        }
        pending.grow(counters);
        if undo.is_none() && pending.is_long() {
            pending.fold(&mut self.scratch);
        }
        if series.frontier_ms.is_none() && before.map_or(true, |before| effect_ms < before) {
            self.earlier.push(number);
        }
    }

    /// Know a series, or give it another layout; gives its number.
    pub fn open(&mut self, model: &[u8], version: i64, layout: &[u8], frontier_ms: Option<i64>) -> u32 {
        if let Some(number) = self.number(model, version) {
            let before = std::mem::replace(&mut self.of_mut(number).layout, layout.into());
            if let Some(undo) = &mut self.undo {
                undo.push(Undo::Layout { series: number, layout: before });
            }
            return number;
        }
        let series = Series {
            model: model.into(), version, layout: layout.into(), frontier_ms, dirty: false, held: false, pending: Vec::new(),
        };
        let number = self.free.pop().unwrap_or(self.series.len() as u32);
        self.place(number, series);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Opened { series: number });
        }
        number
    }

    fn place(&mut self, number: u32, series: Series) {
        self.numbers.entry(series.model.clone()).or_default().push((series.version, number));
        if number as usize == self.series.len() {
            self.series.push(Some(series));
        } else {
            self.series[number as usize] = Some(series);
        }
    }

    fn displace(&mut self, number: u32) -> Option<Series> {
        let series = self.series.get_mut(number as usize)?.take()?;
        if let Some(of) = self.numbers.get_mut(&series.model) {
            of.retain(|(_, known)| *known != number);
            if of.is_empty() {
                self.numbers.remove(&series.model);
            }
        }
        Some(series)
    }

    /// Forget a series.
    pub fn remove(&mut self, number: u32) -> Option<()> {
        let series = self.displace(number)?;
        match &mut self.undo {
            Some(undo) => {
                undo.push(Undo::Removed { series: number, what: Box::new(series) });
                self.freed.push(number);
            }
            None => self.free.push(number),
        }
        Some(())
    }

    pub fn first(&self, number: u32) -> Option<i64> {
        self.of(number).first()
    }

    /// The news of a series were asked for.
    pub fn asked(&mut self, number: u32) {
        if let Some(Some(series)) = self.series.get_mut(number as usize) {
            series.dirty = false;
        }
    }

    /// Ask about every delta of a series, or no longer.
    pub fn hold(&mut self, number: u32, held: bool) {
        if let Some(Some(series)) = self.series.get_mut(number as usize) {
            series.held = held;
        }
    }

    /// Write what waits with an effect before `before_ms`, as [[effect, segment, pane, counters] …]; a damaged one gives
    /// its parts as they are, in rows of their own.
    pub fn write(&mut self, number: u32, before_ms: i64, out: &mut Vec<u8>) -> Option<()> {
        let Shelf { series, scratch, .. } = self;
        let series = series.get(number as usize)?.as_ref()?;
        let due = series.pending.iter().take_while(|item| item.effect_ms < before_ms);
        let mut rows = 0;
        let mut body = Vec::new();
        for item in due {
            let mut row = |counters: &[u8]| {
                rows += 1;
                array(4, &mut body);
                int(item.effect_ms, &mut body);
                text(&item.segment, &mut body);
                int(item.pane_ms, &mut body);
                binary(counters, &mut body);
            };
            match item.total(scratch) {
                Some(total) => row(&total),
                None => {
                    row(&item.sum);
                    item.pieces().for_each(row);
                }
            }
        }
        array(rows, out);
        out.extend_from_slice(&body);
        Some(())
    }

    /// Drop what waits with an effect before `before_ms`; whatever comes for such an effect counts at `before_ms`.
    pub fn settle(&mut self, number: u32, before_ms: i64) -> Option<()> {
        let series = self.series.get_mut(number as usize)?.as_mut()?;
        let rest = series.pending.partition_point(|item| item.effect_ms < before_ms);
        let taken: Vec<Pending> = series.pending.drain(..rest).collect();
        if series.pending.is_empty() {
            series.pending = Vec::new();
        }
        let frontier_ms = series.frontier_ms.replace(before_ms);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Taken { series: number, pending: taken, frontier_ms });
        }
        Some(())
    }

    pub fn begin(&mut self) {
        self.commit();
        self.batch = self.batch.wrapping_add(1);
        self.undo = Some(Vec::new());
    }

    pub fn commit(&mut self) {
        self.free.append(&mut self.freed);
        for step in self.undo.take().unwrap_or_default() {
            let (Undo::Grew { series, effect_ms, segment, pane_ms, .. } | Undo::Created { series, effect_ms, segment, pane_ms }) =
                step
            else {
                continue;
            };
            if let Some(Some(of)) = self.series.get_mut(series as usize) {
                if let Ok(at) = of.find((effect_ms, &segment, pane_ms)) {
                    if of.pending[at].is_long() {
                        of.pending[at].fold(&mut self.scratch);
                    }
                }
            }
        }
    }

    pub fn abort(&mut self) {
        self.freed.clear();
        self.earlier.clear();
        for number in std::mem::take(&mut self.news) {
            self.asked(number);
        }
        for step in self.undo.take().unwrap_or_default().into_iter().rev() {
            match step {
                Undo::Grew { series, effect_ms, segment, pane_ms, parts } => {
                    let of = self.of_mut(series);
                    if let Ok(at) = of.find((effect_ms, &segment, pane_ms)) {
                        of.pending[at].parts.truncate(parts);
                    }
                }
                Undo::Created { series, effect_ms, segment, pane_ms } => {
                    let of = self.of_mut(series);
                    if let Ok(at) = of.find((effect_ms, &segment, pane_ms)) {
                        of.pending.remove(at);
                    }
                }
                Undo::Taken { series, pending, frontier_ms } => {
                    let of = self.of_mut(series);
                    of.frontier_ms = frontier_ms;
                    of.pending.splice(0..0, pending);
                }
                Undo::Opened { series } => {
                    self.displace(series);
                    self.free.push(series);
                }
                Undo::Layout { series, layout } => self.of_mut(series).layout = layout,
                Undo::Removed { series, what } => self.place(series, *what),
            }
        }
    }

    /// Bytes that wait, with what holds them.
    pub fn memory(&self) -> usize {
        let of = |item: &Pending| std::mem::size_of::<Pending>() + item.segment.len() + item.sum.len() + item.parts.capacity();
        let held = self.series.iter().flatten();
        held.map(|one| std::mem::size_of::<Series>() + one.model.len() * 2 + one.layout.len() + one.pending.iter().map(of).sum::<usize>())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(items: &[(u32, i64)]) -> Vec<u8> {
        let mut out = Vec::new();
        pack(items, &mut out);
        out
    }

    fn all(shelf: &mut Shelf, number: u32) -> Vec<u8> {
        let mut out = Vec::new();
        shelf.write(number, i64::MAX, &mut out).unwrap();
        out
    }

    #[test]
    fn what_comes_is_added_up_and_undone() {
        let mut shelf = Shelf::default();
        let number = shelf.open(b"m", 1, b"layout", None);
        for _ in 0..2_000 {
            shelf.add(number, (10, b"", 5), &packed(&[(1, 2), (DENSE as u32 + 7, -1)]));
        }
        assert!(shelf.memory() < 4_000);
        let before = all(&mut shelf, number);
        for _ in 0..3 {
            shelf.begin();
            shelf.add(number, (10, b"", 5), &packed(&[(1, 1)]));
            shelf.add(number, (20, b"s", 5), &packed(&[(1, 1)]));
            shelf.settle(number, 15).unwrap();
            shelf.add(number, (10, b"", 5), &packed(&[(9, 9)]));
            assert_eq!(shelf.first(number), Some(15));
            shelf.remove(number).unwrap();
            let other = shelf.open(b"m", 1, b"new", None);
            shelf.add(other, (1, b"", 1), &packed(&[(9, 9)]));
            shelf.abort();
            assert_eq!(shelf.number(b"m", 1), Some(number));
            assert_eq!(all(&mut shelf, number), before);
            assert_eq!(shelf.first(number), Some(10));
        }
        shelf.begin();
        shelf.remove(number).unwrap();
        shelf.commit();
        assert_eq!(shelf.open(b"n", 1, b"layout", Some(50)), number);
        shelf.add(number, (10, b"", 5), &packed(&[(1, 1)]));
        assert_eq!(shelf.first(number), Some(50));
    }
}
