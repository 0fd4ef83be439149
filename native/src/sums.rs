//! Contributions of one batch: signed integers by pane and position, packed for `joined-deltas`.
//!
//! With tens of thousands of models a batch holds a few events of each: what they add is only appended, in runs by pane,
//! and added up once when it is packed. A pane that gets much goes over to an array of all its positions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// What a pane is of: version, segment, start of the pane, start of the effect's pane.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PaneKey {
    pub plan: u32,
    pub segment: u32,
    pub pane_ms: i64,
    pub effect_ms: i64,
}

/// Multiplies and rotates: the keys are our own numbers, nobody can choose them to collide.
#[derive(Default, Clone, Copy)]
pub struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ chunk.len() as u64);
        }
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_i64(&mut self, value: i64) {
        self.write_u64(value as u64);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

const NONE: u32 = u32::MAX;
/// Contributions after which a pane gets an array.
const DENSE_FROM: u32 = 4_096;
/// Positions beyond are only ever appended.
const DENSE_TO: u32 = 1 << 17;
const MOST_SPARE: usize = 64;

struct Pane {
    key: PaneKey,
    /// Newest run in `log`.
    run: u32,
    appended: u32,
    dense: u32,
}

/// Neighbouring contributions to one pane; `before` is the run of the same pane before it.
struct Run {
    start: u32,
    len: u32,
    before: u32,
}

/// Sums of one batch.
#[derive(Default)]
pub struct Sums {
    panes: Vec<Pane>,
    numbers: HashMap<PaneKey, u32, BuildHasherDefault<Quick>>,
    last: Option<(PaneKey, u32)>,
    log: Vec<(u32, i64)>,
    runs: Vec<Run>,
    /// Pane of the last run.
    open: Option<u32>,
    dense: Vec<Vec<i64>>,
    spare: Vec<Vec<i64>>,
}

impl Sums {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn clear(&mut self) {
        // One large batch must not hold its memory for ever.
        if self.log.len() * 16 < self.log.capacity() {
            self.log = Vec::new();
            self.runs = Vec::new();
            self.panes = Vec::new();
            self.numbers = HashMap::default();
        }
        self.log.clear();
        self.runs.clear();
        self.panes.clear();
        self.numbers.clear();
        self.last = None;
        self.open = None;
        for mut dense in self.dense.drain(..) {
            if self.spare.len() < MOST_SPARE {
                dense.clear();
                self.spare.push(dense);
            }
        }
    }

    /// Number of a pane, for `add`.
    pub fn pane(&mut self, key: PaneKey) -> u32 {
        if let Some((last, number)) = self.last {
            if last == key {
                return number;
            }
        }
        let next = self.panes.len() as u32;
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.panes.push(Pane { key, run: NONE, appended: 0, dense: NONE });
        }
        self.last = Some((key, number));
        number
    }

    #[inline]
    pub fn add(&mut self, pane: u32, position: u32, count: i64) {
        let of = &mut self.panes[pane as usize];
        if of.dense != NONE && position < DENSE_TO {
            let dense = &mut self.dense[of.dense as usize];
            if dense.len() <= position as usize {
                dense.resize((position as usize + 1).next_power_of_two(), 0);
            }
            dense[position as usize] = dense[position as usize].wrapping_add(count);
            return;
        }
        if self.open == Some(pane) {
            self.runs.last_mut().unwrap().len += 1;
        } else {
            self.runs.push(Run { start: self.log.len() as u32, len: 1, before: of.run });
            of.run = self.runs.len() as u32 - 1;
            self.open = Some(pane);
        }
        self.log.push((position, count));
        of.appended += 1;
        if of.appended == DENSE_FROM {
            of.dense = self.dense.len() as u32;
            self.dense.push(self.spare.pop().unwrap_or_default());
        }
    }

    /// Keys of all panes with their numbers, in the order they came in.
    pub fn keys(&self) -> impl Iterator<Item = (u32, PaneKey)> + '_ {
        self.panes.iter().enumerate().map(|(number, pane)| (number as u32, pane.key))
    }

    /// The non-zero counters of a pane in ascending position, into `out`.
    pub fn counters(&self, pane: u32, out: &mut Vec<(u32, i64)>) {
        out.clear();
        let of = &self.panes[pane as usize];
        let mut run = of.run;
        while run != NONE {
            let at = &self.runs[run as usize];
            out.extend_from_slice(&self.log[at.start as usize..(at.start + at.len) as usize]);
            run = at.before;
        }
        if of.dense != NONE {
            let dense = &self.dense[of.dense as usize];
            out.extend(dense.iter().enumerate().filter(|(_, count)| **count != 0).map(|(at, count)| (at as u32, *count)));
        }
        add_up(out);
    }

    #[cfg(test)]
    fn all(&self) -> Vec<(PaneKey, Vec<(u32, i64)>)> {
        let mut found = Vec::new();
        for (number, key) in self.keys() {
            let mut counters = Vec::new();
            self.counters(number, &mut counters);
            if !counters.is_empty() {
                found.push((key, counters));
            }
        }
        found
    }
}

/// Sort by position, add up what stands at the same one, leave out zeros.
pub fn add_up(counters: &mut Vec<(u32, i64)>) {
    counters.sort_unstable_by_key(|item| item.0);
    let mut kept = 0;
    let mut at = 0;
    while at < counters.len() {
        let (position, mut sum) = counters[at];
        at += 1;
        while at < counters.len() && counters[at].0 == position {
            sum = sum.wrapping_add(counters[at].1);
            at += 1;
        }
        if sum != 0 {
            counters[kept] = (position, sum);
            kept += 1;
        }
    }
    counters.truncate(kept);
}

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Counters as `streams/packed.py` defines them: gap to the previous position, then the zigzag count.
pub fn pack(counters: &[(u32, i64)], out: &mut Vec<u8>) {
    let mut before = 0;
    for &(position, count) in counters {
        varint(u64::from(position - before), out);
        varint(((count << 1) ^ (count >> 63)) as u64, out);
        before = position;
    }
}

/// Read packed counters; None where the bytes are damaged.
pub fn unpack(mut bytes: &[u8], mut each: impl FnMut(usize, i64) -> Option<()>) -> Option<()> {
    let mut position = 0usize;
    while !bytes.is_empty() {
        position = position.checked_add(usize::try_from(read_varint(&mut bytes)?).ok()?)?;
        let zigzag = read_varint(&mut bytes)?;
        each(position, (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))?;
    }
    Some(())
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_cancel_and_come_out_in_order() {
        let mut sums = Sums::new();
        let key = |segment| PaneKey { plan: 0, segment, pane_ms: 0, effect_ms: 0 };
        for round in 0..3 {
            for position in (0..9_000).rev() {
                let pane = sums.pane(key(position % 2));
                sums.add(pane, position, if round == 2 { -2 } else { 1 });
            }
        }
        assert!(sums.all().is_empty());
        let pane = sums.pane(key(1));
        sums.add(pane, 7, -3);
        sums.add(pane, 2, 5);
        assert_eq!(sums.all()[0].1, vec![(2, 5), (7, -3)]);
        sums.clear();
        assert!(sums.all().is_empty());
    }

    #[test]
    fn a_pane_that_gets_much_goes_over_to_an_array() {
        let mut sums = Sums::new();
        let key = |plan| PaneKey { plan, segment: 0, pane_ms: 0, effect_ms: 0 };
        for _ in 0..2 {
            for round in 0..2 * DENSE_FROM {
                let pane = sums.pane(key(round % 2));
                sums.add(pane, round / 2 % 3, 1);
                sums.add(pane, DENSE_TO + 5, 1);
            }
            assert!(sums.panes[0].dense != NONE);
            let found = sums.all();
            assert_eq!(found.len(), 2);
            for (_, counters) in found {
                assert_eq!(counters.iter().map(|item| item.0).collect::<Vec<_>>(), [0, 1, 2, DENSE_TO + 5]);
                assert_eq!(counters.iter().map(|item| item.1).sum::<i64>(), 2 * i64::from(DENSE_FROM));
            }
            sums.clear();
        }
    }

    #[test]
    fn packing_is_undone() {
        let counters = vec![(0, 1), (3, -1), (300, i64::MAX), (70_000, i64::MIN)];
        let mut bytes = Vec::new();
        pack(&counters, &mut bytes);
        let mut found = Vec::new();
        unpack(&bytes, |position, count| {
            found.push((position as u32, count));
            Some(())
        })
        .unwrap();
        assert_eq!(found, counters);
        assert!(unpack(&[0x80], |_, _| Some(())).is_none());
    }
}
