//! The compact entries of one partition: found by id, and by the watermark at which something is due.

use std::collections::BTreeMap;

pub const NONE: u32 = u32::MAX;
const SLAB: usize = 1 << 14;
/// Due times are grouped by 4,096 ms.
const BUCKET_BITS: u32 = 12;
pub const NEVER: i64 = i64::MAX;

pub const GONE: u8 = 0;
pub const PENDING: u8 = 1;
pub const LABELLED: u8 = 2;
pub const EXPIRED: u8 = 3;
/// The reference implementation holds the entry; here stands only that it does.
pub const ODD: u8 = 4;
/// One label, whose prediction has not come; its record stands in the notes.
pub const WAITING: u8 = 5;

pub const INT: u8 = 0;
pub const FLOAT: u8 = 1;
pub const BOOL: u8 = 2;
pub const TEXT: u8 = 3;

/// What is known of one prediction_id that has one prediction and at most one label, or only a label that waits.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Entry {
    pub id: [u64; 2],
    pub payload: u64,
    pub event_ms: i64,
    /// NaN: the prediction has no score.
    pub score: f64,
    pub label: u64,
    pub label_ms: i64,
    pub keep_ms: i64,
    pub due_ms: i64,
    pub generation: u32,
    pub plan: u32,
    pub segments: u32,
    pub predicted: u16,
    pub revision: u16,
    pub state: u8,
    pub label_kind: u8,
    pub flags: u8,
    pub spare: u8,
    pub next: u32,
    pub prev: u32,
    pub pad: u32,
}

/// The batch has touched it: its state before the batch is in the undo log.
pub const TOUCHED: u8 = 1;
/// It has a note.
pub const NOTED: u8 = 128;

impl Entry {
    pub fn bytes(&self) -> &[u8] {
        // Sound: repr(C), only plain numbers, no padding (asserted below).
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), SIZE) }
    }

    pub fn from_bytes(bytes: &[u8]) -> Entry {
        assert_eq!(bytes.len(), SIZE);
        // Sound: every bit pattern is a valid Entry; the read is unaligned.
        unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) }
    }
}

pub const SIZE: usize = std::mem::size_of::<Entry>();
const _: () = assert!(SIZE == 16 + 7 * 8 + 3 * 4 + 2 * 2 + 4 + 3 * 4);

#[derive(Default)]
pub struct Table {
    slabs: Vec<Box<[Entry]>>,
    free: Vec<u32>,
    fresh: u32,
    /// High half: part of the id; low half: slot + 1, 0 where free.
    index: Vec<u64>,
    count: usize,
    heads: BTreeMap<i64, u32>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn memory(&self) -> usize {
        self.slabs.len() * SLAB * SIZE + self.index.len() * 8 + self.free.capacity() * 4 + self.heads.len() * 24
    }

    #[inline(always)]
    pub fn at(&self, slot: u32) -> &Entry {
        &self.slabs[slot as usize / SLAB][slot as usize % SLAB]
    }

    #[inline(always)]
    pub fn at_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.slabs[slot as usize / SLAB][slot as usize % SLAB]
    }

    #[inline(always)]
    fn tag(id: [u64; 2]) -> u64 {
        id[0] & 0xffff_ffff_0000_0000
    }

    #[inline]
    pub fn find(&self, id: [u64; 2]) -> Option<u32> {
        if self.index.is_empty() {
            return None;
        }
        let mask = self.index.len() - 1;
        let mut at = id[1] as usize & mask;
        loop {
            let word = self.index[at];
            if word == 0 {
                return None;
            }
            if word & 0xffff_ffff_0000_0000 == Self::tag(id) {
                let slot = (word as u32) - 1;
                if self.at(slot).id == id {
                    return Some(slot);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Add an entry whose id is not there yet.
    pub fn insert(&mut self, entry: Entry) -> u32 {
        if (self.count + 1) * 4 > self.index.len() * 3 {
            self.grow();
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.fresh as usize == self.slabs.len() * SLAB {
                self.slabs.push(vec![Entry::default(); SLAB].into_boxed_slice());
            }
            self.fresh += 1;
            self.fresh - 1
        });
        *self.at_mut(slot) = Entry { next: NONE, prev: NONE, due_ms: NEVER, ..entry };
        self.place(entry.id, slot);
        self.count += 1;
        if entry.due_ms != NEVER {
            self.link(slot, entry.due_ms);
        }
        slot
    }

    fn place(&mut self, id: [u64; 2], slot: u32) {
        let mask = self.index.len() - 1;
        let mut at = id[1] as usize & mask;
        while self.index[at] != 0 {
            at = (at + 1) & mask;
        }
        self.index[at] = Self::tag(id) | u64::from(slot + 1);
    }

    fn grow(&mut self) {
        let size = (self.index.len() * 2).max(1 << 10);
        let old = std::mem::replace(&mut self.index, vec![0; size]);
        for word in old {
            if word != 0 {
                let slot = (word as u32) - 1;
                self.place(self.at(slot).id, slot);
            }
        }
    }

    /// Take an entry out; its slot is used again.
    pub fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let id = self.at(slot).id;
        let mask = self.index.len() - 1;
        let mut hole = id[1] as usize & mask;
        while self.index[hole] as u32 != slot + 1 {
            hole = (hole + 1) & mask;
        }
        // Close the gap: whatever follows and could stand nearer to its home moves up.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let word = self.index[at];
            if word == 0 {
                break;
            }
            let home = self.at((word as u32) - 1).id[1] as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = word;
                hole = at;
            }
        }
        self.index[hole] = 0;
        *self.at_mut(slot) = Entry { next: NONE, prev: NONE, due_ms: NEVER, ..Entry::default() };
        self.free.push(slot);
        self.count -= 1;
    }

    /// Note when the entry has to be looked at; NEVER: not at all.
    pub fn due(&mut self, slot: u32, due_ms: i64) {
        self.unlink(slot);
        if due_ms != NEVER {
            self.link(slot, due_ms);
        }
    }

    fn link(&mut self, slot: u32, due_ms: i64) {
        let head = self.heads.insert(due_ms >> BUCKET_BITS, slot).unwrap_or(NONE);
        let entry = self.at_mut(slot);
        entry.due_ms = due_ms;
        entry.prev = NONE;
        entry.next = head;
        if head != NONE {
            self.at_mut(head).prev = slot;
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { due_ms, next, prev, .. } = *self.at(slot);
        if due_ms == NEVER {
            return;
        }
        if next != NONE {
            self.at_mut(next).prev = prev;
        }
        if prev != NONE {
            self.at_mut(prev).next = next;
        } else if next != NONE {
            self.heads.insert(due_ms >> BUCKET_BITS, next);
        } else {
            self.heads.remove(&(due_ms >> BUCKET_BITS));
        }
        let entry = self.at_mut(slot);
        (entry.due_ms, entry.next, entry.prev) = (NEVER, NONE, NONE);
    }

    /// Put the bytes of before back, linked as they were.
    pub fn restore(&mut self, slot: u32, before: Entry) {
        self.unlink(slot);
        *self.at_mut(slot) = Entry { next: NONE, prev: NONE, due_ms: NEVER, ..before };
        if before.due_ms != NEVER {
            self.link(slot, before.due_ms);
        }
    }

    /// Slots of what is due at a watermark.
    pub fn take_due(&self, watermark_ms: i64, out: &mut Vec<u32>) {
        for &head in self.heads.range(..=watermark_ms >> BUCKET_BITS).map(|(_, head)| head) {
            let mut slot = head;
            while slot != NONE {
                let entry = self.at(slot);
                if entry.due_ms <= watermark_ms {
                    out.push(slot);
                }
                slot = entry.next;
            }
        }
    }

    /// Slots given out so far; those of entries that left included.
    pub fn slots(&self) -> u32 {
        self.fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64, due_ms: i64) -> Entry {
        let id = crate::hash::id(&n.to_le_bytes());
        Entry { id: [(id >> 64) as u64, id as u64], payload: n, state: PENDING, due_ms, ..Entry::default() }
    }

    #[test]
    fn what_was_put_in_is_found_until_it_is_taken_out() {
        let mut table = Table::default();
        let slots: Vec<u32> = (0..50_000).map(|n| table.insert(entry(n, n as i64 * 100))).collect();
        for n in (0..50_000).step_by(3) {
            table.remove(slots[n]);
        }
        for n in 0..50_000u64 {
            let found = table.find(entry(n, 0).id).map(|slot| table.at(slot).payload);
            assert_eq!(found, (n % 3 != 0).then_some(n));
        }
        let mut due = Vec::new();
        table.take_due(999_950, &mut due);
        let mut numbers: Vec<u64> = due.iter().map(|slot| table.at(*slot).payload).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10_000).filter(|n| n % 3 != 0).collect::<Vec<u64>>());
        assert_eq!(table.len(), (0..table.slots()).filter(|slot| table.at(*slot).state != GONE).count());
    }

    #[test]
    fn restoring_links_again() {
        let mut table = Table::default();
        let slot = table.insert(entry(1, 50));
        table.insert(entry(2, 60));
        let before = *table.at(slot);
        table.due(slot, NEVER);
        table.restore(slot, before);
        let mut due = Vec::new();
        table.take_due(100, &mut due);
        assert_eq!(due.len(), 2);
    }
}
