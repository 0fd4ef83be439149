//! The compact entries of one partition: found by id, and by the watermark at which something is due.
//!
//! Every entry stands in the log; some of them, *hot* ones, also in memory. A cold one comes into memory when it is asked
//! for or due, and leaves it between batches, without being written: the log has it.

use std::collections::BTreeMap;

use crate::chunk::Chunk;
use crate::index::{tag, Index, COLD};
use crate::log::{Log, Shape, SHAPE};
use crate::notes::Notes;

pub const NONE: u32 = u32::MAX;
const SLAB: usize = 1 << 12;
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
    /// In memory a neighbour among what is due together; in the log the position of the record it replaces.
    pub prev: u32,
    /// In memory: where it stands in the log.
    pub pos: u32,
}

/// The batch has touched it: its state before the batch is in the undo log.
pub const TOUCHED: u8 = 1;
/// It has a note.
pub const NOTED: u8 = 128;
/// Spared once when memory gets short: it will soon be due.
pub const SOON: u8 = 2;

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

/// Reads chunks, by the positions of their first records, one behind the other; false where that failed.
pub type Source = Box<dyn FnMut(&[u64], &mut Vec<u8>) -> bool>;
/// So many chunks are read at once, at most.
const READ: usize = 1_024;

/// Whether the table itself holds what is known in that state.
#[inline(always)]
pub fn ordinary(state: u8) -> bool {
    matches!(state, PENDING | LABELLED | EXPIRED | WAITING)
}

pub struct Table {
    slabs: Vec<Box<[Entry]>>,
    free: Vec<u32>,
    fresh: u32,
    index: Index,
    hot: usize,
    heads: BTreeMap<i64, u32>,
    pub notes: Notes,
    pub log: Log,
    pub source: Option<Source>,
    /// Bytes that index and hot entries may take after a commit.
    pub budget: usize,
    hand: u32,
    buffer: Vec<u8>,
}

impl Default for Table {
    fn default() -> Self {
        Table::new(SHAPE)
    }
}

/// Reading failed: `Source` knows why. The caller's caller catches it.
fn unreadable() -> ! {
    std::panic::resume_unwind(Box::new(()))
}

impl Table {
    pub fn new(shape: Shape) -> Self {
        Table {
            slabs: Vec::new(), free: Vec::new(), fresh: 0, index: Index::default(), hot: 0, heads: BTreeMap::new(),
            notes: Notes::default(), log: Log::new(shape), source: None, budget: usize::MAX, hand: 0, buffer: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn hot(&self) -> usize {
        self.hot
    }

    pub fn memory(&self) -> usize {
        self.slabs.len() * SLAB * SIZE + self.index.memory() + self.free.capacity() * 4 + self.heads.len() * 24
            + self.notes.memory() + self.log.memory() + self.buffer.capacity()
    }

    #[inline(always)]
    pub fn at(&self, slot: u32) -> &Entry {
        &self.slabs[slot as usize / SLAB][slot as usize % SLAB]
    }

    #[inline(always)]
    pub fn at_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.slabs[slot as usize / SLAB][slot as usize % SLAB]
    }

    /// The slot of an id's entry, which is read from the log if need be.
    #[inline]
    pub fn find(&mut self, id: [u64; 2]) -> Option<u32> {
        loop {
            let (mut found, mut cold) = (None, None);
            self.index.of(tag(id), |_, low| {
                if low & COLD != 0 {
                    cold = Some(low);
                } else if self.at(low - 1).id == id {
                    found = Some(low - 1);
                }
                found.is_some()
            });
            match cold {
                // Of this id or, rarely, of another with the same tag: hot from now on, and so told apart.
                Some(low) if found.is_none() => self.fetch(vec![self.log.whole(low)]),
                _ => return found,
            }
        }
    }

    /// Ask the processor for what `find` will look at first.
    #[inline(always)]
    pub fn prefetch(&self, id: [u64; 2]) {
        self.index.prefetch(tag(id));
    }

    /// Ask it for the entry, once what `prefetch` asked for is there.
    #[inline(always)]
    pub fn prefetch_entry(&self, id: [u64; 2]) {
        self.index.of(tag(id), |_, low| {
            #[cfg(target_arch = "x86_64")]
            if low & COLD == 0 {
                let entry = std::ptr::from_ref(self.at(low - 1)).cast::<i8>();
                // Sound: hints; the entry and its neighbours are of one slab.
                unsafe {
                    use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
                    _mm_prefetch::<_MM_HINT_T0>(entry);
                    _mm_prefetch::<_MM_HINT_T0>(entry.wrapping_add(64));
                }
            }
            true
        });
    }

    /// Read what is cold of these ids, all at once.
    pub fn expect(&mut self, tags: &[u32]) {
        if self.hot == self.index.len() {
            return;
        }
        tags.iter().for_each(|tag| self.index.prefetch(*tag));
        let mut wanted = Vec::new();
        for tag in tags {
            self.index.of(*tag, |_, low| {
                if low & COLD != 0 {
                    wanted.push(self.log.whole(low));
                }
                false
            });
        }
        self.fetch(wanted);
    }

    fn fetch(&mut self, mut wanted: Vec<u64>) {
        wanted.sort_unstable();
        wanted.dedup();
        let mut bases: Vec<u64> = wanted.iter().map(|at| self.log.chunk_of(*at)).collect();
        bases.dedup();
        let mut wanted = wanted.into_iter().peekable();
        self.chunks(&bases, |table, base, chunk| {
            while let Some(at) = wanted.next_if(|at| table.log.chunk_of(*at) == base) {
                let record = (at - base) as usize;
                if record >= chunk.len() || !table.promote(at, &chunk.entry(record), chunk.note(record), 0) {
                    unreadable();
                }
            }
        });
    }

    /// Call `each` with these chunks, in their order.
    fn chunks(&mut self, bases: &[u64], mut each: impl FnMut(&mut Table, u64, Chunk)) {
        let mut own = Vec::new();
        let mut bases = bases;
        if let (Some((base, chunk)), Some((last, rest))) = (self.log.open_chunk(), bases.split_last()) {
            if base == *last {
                chunk.write(&mut own);
                bases = rest;
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for some in bases.chunks(READ) {
            buffer.clear();
            if !self.source.as_mut().is_some_and(|source| source(some, &mut buffer)) {
                unreadable();
            }
            let mut rest = &buffer[..];
            for base in some {
                let Some((chunk, others)) = Chunk::split(rest) else { unreadable() };
                each(self, *base, chunk);
                rest = others;
            }
        }
        self.buffer = buffer;
        if let Some((chunk, _)) = Chunk::split(&own) {
            each(self, self.log.chunk_of(self.log.head()), chunk);
        }
    }

    /// First positions of a segment's chunks.
    fn segment(&self, from: u64) -> Vec<u64> {
        let end = (from + self.log.segment_size()).min(self.log.head());
        (from..end).step_by(self.log.chunk_size() as usize).collect()
    }

    /// Take an entry that was read into memory; false where it is there already, or out of date.
    fn promote(&mut self, at: u64, entry: &Entry, note: &[u8], flags: u8) -> bool {
        let low = at as u32 & !COLD;
        let Some(cell) = self.index.cell(tag(entry.id), COLD | low) else { return false };
        let flags = if note.is_empty() { flags } else { flags | NOTED };
        let slot = self.place(Entry { pos: low, flags, ..*entry });
        self.index.set(cell, slot + 1);
        if !note.is_empty() {
            self.notes.put(slot, note);
        }
        true
    }

    /// Add an entry whose id is not there yet.
    pub fn insert(&mut self, entry: Entry) -> u32 {
        let slot = self.place(Entry { pos: NONE, ..entry });
        self.index.insert(tag(entry.id), slot + 1);
        slot
    }

    fn place(&mut self, entry: Entry) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.fresh as usize == self.slabs.len() * SLAB {
                self.slabs.push(vec![Entry::default(); SLAB].into_boxed_slice());
            }
            self.fresh += 1;
            self.fresh - 1
        });
        self.hot += 1;
        *self.at_mut(slot) = Entry { next: NONE, prev: NONE, due_ms: NEVER, ..entry };
        if entry.due_ms != NEVER {
            self.link(slot, entry.due_ms);
        }
        slot
    }

    /// Take an entry out; its slot is used again.
    pub fn remove(&mut self, slot: u32) {
        let cell = self.index.cell(tag(self.at(slot).id), slot + 1).expect("every slot has its word");
        self.index.remove(cell);
        self.clear(slot);
    }

    fn clear(&mut self, slot: u32) {
        self.unlink(slot);
        *self.at_mut(slot) = Entry { next: NONE, prev: NONE, due_ms: NEVER, ..Entry::default() };
        self.free.push(slot);
        self.hot -= 1;
    }

    // ------------------------------------------------------------------------------------------- the log

    /// Log an entry as it is now, or that it is not ordinary any more.
    pub fn write(&mut self, slot: u32, out: &mut Vec<u8>) {
        let entry = *self.at(slot);
        let is = ordinary(entry.state);
        if is || entry.pos != NONE {
            let at = if is {
                let note = if entry.flags & NOTED == 0 { b"" } else { self.notes.get(slot) };
                self.log.append(&Entry { next: NONE, prev: entry.pos, pos: 0, flags: 0, ..entry }, note, out)
            } else {
                let gone = Entry { id: entry.id, state: GONE, next: NONE, prev: entry.pos, ..Entry::default() };
                self.log.append(&gone, b"", out);
                NONE
            };
            if entry.pos != NONE {
                self.log.dead(entry.pos);
            }
            self.at_mut(slot).pos = at;
        }
    }

    /// Take the log's oldest segments away while they hold little; those behind `start` were written just now.
    pub fn clean(&mut self, start: u64, out: &mut Vec<u8>) {
        let most = 2 * (self.log.head() - start) + self.log.segment_size();
        let from = self.log.tail();
        while self.log.is_over(start) && self.log.tail() - from < most {
            if self.log.oldest_live() > 0 {
                let bases = self.segment(self.log.tail());
                self.chunks(&bases, |table, base, chunk| {
                    for record in 0..chunk.len() {
                        table.keep(base + record as u64, &chunk.entry(record), chunk.note(record), out);
                    }
                });
            }
            self.log.drop_oldest();
        }
    }

    /// Write a record that is to go once more, if it is the newest of its id.
    fn keep(&mut self, at: u64, entry: &Entry, note: &[u8], out: &mut Vec<u8>) {
        let low = at as u32 & !COLD;
        let Some((cell, place)) = self.owner(entry, low) else { return };
        let moved = self.log.append(&Entry { prev: NONE, ..*entry }, note, out);
        self.log.dead(low);
        if place & COLD == 0 {
            self.at_mut(place - 1).pos = moved;
        } else {
            self.index.set(cell, COLD | moved);
            self.log.cold(moved, entry.due_ms);
        }
    }

    /// Cell and low half of the word that a record is the newest of.
    fn owner(&self, entry: &Entry, low: u32) -> Option<(usize, u32)> {
        let mut found = None;
        if ordinary(entry.state) {
            self.index.of(tag(entry.id), |cell, place| {
                if place == COLD | low || (place & COLD == 0 && self.at(place - 1).pos == low) {
                    found = Some((cell, place));
                }
                found.is_some()
            });
        }
        found
    }

    /// Let entries go cold until what is in memory is within the budget.
    pub fn evict(&mut self) {
        let most = self.room();
        let mut left = 2 * self.fresh;
        while self.hot > most && left > 0 {
            left -= 1;
            self.hand = if self.hand + 1 >= self.fresh { 0 } else { self.hand + 1 };
            if self.at(self.hand).flags & SOON != 0 {
                self.at_mut(self.hand).flags &= !SOON;
            } else {
                self.chill(self.hand);
            }
        }
    }

    /// Entries that may be in memory.
    fn room(&self) -> usize {
        self.budget.saturating_sub(self.index.memory() + self.notes.memory() + self.free.capacity() * 4) / SIZE
    }

    /// Let an entry go cold, where it can: it stands in the log as it is.
    fn chill(&mut self, slot: u32) -> bool {
        let entry = *self.at(slot);
        if !ordinary(entry.state) || entry.pos == NONE || entry.flags & TOUCHED != 0 {
            return false;
        }
        let cell = self.index.cell(tag(entry.id), slot + 1).expect("every slot has its word");
        self.index.set(cell, COLD | entry.pos);
        self.log.cold(entry.pos, entry.due_ms);
        if entry.flags & NOTED != 0 {
            self.notes.put(slot, b"");
        }
        self.clear(slot);
        true
    }

    /// Give memory back that entries had before the index grew. No batch may be open: slots change.
    pub fn shrink(&mut self) {
        let needed = self.room() / SLAB + 1;
        if self.slabs.len() > needed + 16 {
            self.shrink_to(needed + 8);
        }
    }

    fn shrink_to(&mut self, slabs: usize) {
        let end = self.fresh.min((slabs * SLAB) as u32);
        for slot in end..self.fresh {
            self.chill(slot);
        }
        // What the reference holds cannot go: it moves to where there is room, or is made.
        let odd: Vec<u32> = (end..self.fresh).filter(|slot| self.at(*slot).state != GONE).collect();
        let mut room = self.free.iter().filter(|slot| **slot < end).count();
        for slot in 0..end {
            if room >= odd.len() {
                break;
            }
            room += usize::from(self.chill(slot));
        }
        if room < odd.len() {
            return;
        }
        self.free.retain(|slot| *slot < end);
        for slot in odd {
            let entry = *self.at(slot);
            let cell = self.index.cell(tag(entry.id), slot + 1).expect("every slot has its word");
            let moved = self.place(entry);
            self.index.set(cell, moved + 1);
            self.hot -= 1;
        }
        self.fresh = end;
        self.slabs.truncate(slabs);
        self.free.shrink_to_fit();
    }

    /// Bring the cold entries into memory that are due at a watermark.
    pub fn wake(&mut self, watermark_ms: i64) {
        for (from, until_ms) in self.log.waking(watermark_ms) {
            let bases = self.segment(from);
            self.chunks(&bases, |table, base, chunk| {
                for record in 0..chunk.len() {
                    let (at, entry) = (base + record as u64, chunk.entry(record));
                    if !ordinary(entry.state) {
                        continue;
                    }
                    if entry.due_ms <= until_ms {
                        table.promote(at, &entry, chunk.note(record), SOON);
                    } else {
                        table.log.cold(at as u32 & !COLD, entry.due_ms);
                    }
                }
            });
        }
    }

    /// Take in a chunk of a log that is read from its oldest end; None where it is damaged.
    pub fn load(&mut self, base: u64, chunk: Chunk<'_>, known: impl Fn(&Entry) -> bool) -> Option<()> {
        self.log.load(base, chunk)?;
        for record in 0..chunk.len() {
            self.index.prefetch(tag(chunk.id(record)));
        }
        for record in 0..chunk.len() {
            let entry = chunk.entry(record);
            let low = self.log.loaded(&entry);
            let before = (entry.prev != NONE && self.in_log(low, entry.prev)).then_some(COLD | entry.prev);
            let cell = match before {
                Some(before) => Some(self.index.cell(tag(entry.id), before)?),
                None => None,
            };
            if before.is_some() {
                self.log.dead(entry.prev);
            }
            if ordinary(entry.state) {
                if !known(&entry) || entry.due_ms == NEVER {
                    return None;
                }
                match cell {
                    Some(cell) => self.index.set(cell, COLD | low),
                    None => self.index.insert(tag(entry.id), COLD | low),
                }
                self.log.cold(low, entry.due_ms);
            } else if entry.state != GONE {
                return None;
            } else if let Some(cell) = cell {
                self.index.remove(cell);
            }
        }
        Some(())
    }

    /// Whether what a record at `low` replaces was not cleaned away.
    fn in_log(&self, low: u32, before: u32) -> bool {
        u64::from(low.wrapping_sub(before) & !COLD) <= self.log.whole(low) - self.log.tail()
    }

    /// Bring the newest entries into memory, as far as half of the budget allows.
    pub fn warm(&mut self) {
        let most = self.room() / 2;
        let mut end = self.log.head();
        while end > self.log.tail() && self.hot < most.min(self.index.len()) {
            let from = self.log.chunk_of(end - 1).saturating_sub(self.log.chunk_size() * (READ as u64 - 1)).max(self.log.tail());
            let bases: Vec<u64> = (from..end).step_by(self.log.chunk_size() as usize).collect();
            self.chunks(&bases, |table, base, chunk| {
                for record in 0..chunk.len() {
                    table.promote(base + record as u64, &chunk.entry(record), chunk.note(record), 0);
                }
            });
            end = from;
        }
    }

    /// Write the entries of one segment out, those in memory as they are there.
    pub fn export(&mut self, from: u64, mut each: impl FnMut(&Entry, &[u8])) {
        let bases = self.segment(from);
        self.chunks(&bases, |table, base, chunk| {
            for record in 0..chunk.len() {
                let entry = chunk.entry(record);
                match table.owner(&entry, (base + record as u64) as u32 & !COLD) {
                    Some((_, place)) if place & COLD == 0 => each(table.at(place - 1), table.notes.get(place - 1)),
                    Some(_) => each(&entry, chunk.note(record)),
                    None => {}
                }
            }
        });
    }

    // ---------------------------------------------------------------------------------------------- time

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
        assert_eq!(table.len(), (0..table.fresh).filter(|slot| table.at(*slot).state != GONE).count());
    }

    #[test]
    fn memory_is_given_back_and_nothing_lost() {
        let mut table = Table::default();
        for n in 0..6 * SLAB as u64 {
            let state = if n % 1_000 == 0 { ODD } else { PENDING };
            let slot = table.insert(Entry { state, ..entry(n, NEVER) });
            if state == PENDING {
                table.due(slot, n as i64);
                table.write(slot, &mut Vec::new());
            }
        }
        let before = table.memory();
        table.shrink_to(2);
        assert!(table.memory() + 3 * SLAB * SIZE < before);
        assert_eq!(table.len(), 6 * SLAB);
        for n in 0..6 * SLAB as u64 {
            let (tag, mut slots) = (tag(entry(n, 0).id), Vec::new());
            table.index.of(tag, |_, low| {
                slots.push(low);
                false
            });
            let hot = slots.iter().any(|low| low & COLD == 0 && table.at(low - 1).payload == n);
            assert!(hot || (n % 1_000 != 0 && slots.iter().any(|low| low & COLD != 0)));
        }
        let mut due = Vec::new();
        table.take_due(i64::MAX - 1, &mut due);
        assert!(due.len() < 2 * SLAB && due.iter().all(|slot| table.at(*slot).state == PENDING));
        let more: Vec<u32> = (0..100).map(|n| table.insert(entry(1_000_000 + n, 5))).collect();
        assert!(more.iter().all(|slot| table.at(*slot).payload >= 1_000_000));
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
