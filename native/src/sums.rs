//! Contributions of one batch: signed integers by pane and position, packed for `joined-deltas`.

use std::collections::HashMap;

/// What a pane is of: version, segment, start of the pane, start of the effect's pane.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PaneKey {
    pub plan: u32,
    pub segment: u32,
    pub pane_ms: i64,
    pub effect_ms: i64,
}

const POSITION_BITS: u32 = 24;

/// An open-addressing table of u64 to i64; the key holds the pane's number and the position.
pub struct Sums {
    keys: Vec<u64>,
    values: Vec<i64>,
    used: usize,
    panes: Vec<PaneKey>,
    numbers: HashMap<PaneKey, u32>,
    last: Option<(PaneKey, u32)>,
}

const EMPTY: u64 = u64::MAX;
const SMALLEST: usize = 1 << 12;

impl Sums {
    pub fn new() -> Self {
        Sums {
            keys: vec![EMPTY; SMALLEST],
            values: vec![0; SMALLEST],
            used: 0,
            panes: Vec::new(),
            numbers: HashMap::new(),
            last: None,
        }
    }

    pub fn clear(&mut self) {
        if self.used > 0 {
            if self.keys.len() > SMALLEST && self.used * 16 < self.keys.len() {
                self.keys = vec![EMPTY; SMALLEST];
                self.values = vec![0; SMALLEST];
            } else {
                self.keys.fill(EMPTY);
            }
        }
        self.used = 0;
        self.panes.clear();
        self.numbers.clear();
        self.last = None;
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
            self.panes.push(key);
        }
        self.last = Some((key, number));
        number
    }

    #[inline]
    pub fn add(&mut self, pane: u32, position: u32, count: i64) {
        let key = (u64::from(pane) << POSITION_BITS) | u64::from(position);
        let mask = self.keys.len() - 1;
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        loop {
            if self.keys[at] == key {
                self.values[at] += count;
                return;
            }
            if self.keys[at] == EMPTY {
                break;
            }
            at = (at + 1) & mask;
        }
        self.keys[at] = key;
        self.values[at] = count;
        self.used += 1;
        if self.used * 4 > self.keys.len() * 3 {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let size = self.keys.len() * 2;
        let keys = std::mem::replace(&mut self.keys, vec![EMPTY; size]);
        let values = std::mem::replace(&mut self.values, vec![0; size]);
        self.used = 0;
        for (key, value) in keys.into_iter().zip(values) {
            if key != EMPTY {
                self.add((key >> POSITION_BITS) as u32, (key & ((1 << POSITION_BITS) - 1)) as u32, value);
            }
        }
    }

    /// Every pane with its non-zero counters in ascending position.
    pub fn panes(&self) -> Vec<(PaneKey, Vec<(u32, i64)>)> {
        let mut items: Vec<(u64, i64)> = self
            .keys
            .iter()
            .zip(&self.values)
            .filter(|(key, value)| **key != EMPTY && **value != 0)
            .map(|(key, value)| (*key, *value))
            .collect();
        items.sort_unstable();
        let mut out: Vec<(PaneKey, Vec<(u32, i64)>)> = Vec::new();
        let mut current = u32::MAX;
        for (key, value) in items {
            let pane = (key >> POSITION_BITS) as u32;
            if pane != current {
                current = pane;
                out.push((self.panes[pane as usize], Vec::new()));
            }
            out.last_mut().unwrap().1.push(((key & ((1 << POSITION_BITS) - 1)) as u32, value));
        }
        out
    }
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
        assert!(sums.panes().is_empty());
        let pane = sums.pane(key(1));
        sums.add(pane, 7, -3);
        sums.add(pane, 2, 5);
        assert_eq!(sums.panes()[0].1, vec![(2, 5), (7, -3)]);
        sums.clear();
        assert!(sums.panes().is_empty());
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
