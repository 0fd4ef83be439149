//! The log of all changes of ordinary entries: its ends, and what is known of its segments.
//!
//! A record's position is its number; an index word and an entry hold the low 31 bits of it. What a record replaces stands
//! before it, and the log is cleaned from its oldest end only: so a record that says "gone" can go when its turn comes, as
//! nothing older is left that could come back.

use std::collections::VecDeque;

use crate::chunk::{Builder, Chunk};
use crate::table::{ordinary, Entry, NEVER};

pub const POSITION: u32 = (1 << 31) - 1;
/// Beyond, positions would begin to be ambiguous: cleaning does not wait for garbage.
const MOST_RECORDS: u64 = 1 << 30;

/// Sizes; tests take small ones.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Records of a chunk and of a segment, as powers of two.
    pub chunk_bits: u32,
    pub segment_bits: u32,
    /// So many records more than 2.5 times the live ones begin cleaning.
    pub slack: u64,
}

pub const SHAPE: Shape = Shape { chunk_bits: 5, segment_bits: 14, slack: 1 << 16 };

pub struct Segment {
    /// Records that are the newest of their id.
    pub live: u32,
    /// None of its cold entries is due before.
    pub wake_ms: i64,
    low_ms: i64,
    high_ms: i64,
}

pub struct Log {
    pub shape: Shape,
    head: u64,
    /// Number of the oldest segment.
    first: u64,
    segments: VecDeque<Segment>,
    live: u64,
    /// The newest chunk, while it is not full.
    open: Builder,
    unwritten: bool,
    /// None of the segments wakes before.
    wake_ms: i64,
}

impl Log {
    pub fn new(shape: Shape) -> Self {
        Log {
            shape, head: 0, first: 0, segments: VecDeque::new(), live: 0, open: Builder::default(), unwritten: false,
            wake_ms: NEVER,
        }
    }

    /// Position of the next record.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Position of the oldest record.
    pub fn tail(&self) -> u64 {
        self.first << self.shape.segment_bits
    }

    pub fn segment_size(&self) -> u64 {
        1 << self.shape.segment_bits
    }

    pub fn chunk_size(&self) -> u64 {
        1 << self.shape.chunk_bits
    }

    /// Position of a chunk's first record.
    pub fn chunk_of(&self, at: u64) -> u64 {
        at >> self.shape.chunk_bits << self.shape.chunk_bits
    }

    /// The newest chunk, where it is not full: (its first position, its records).
    pub fn open_chunk(&self) -> Option<(u64, Chunk<'_>)> {
        (self.open.len() > 0).then(|| (self.chunk_of(self.head), self.open.chunk()))
    }

    /// The position whose low bits an entry holds.
    #[inline(always)]
    pub fn whole(&self, low: u32) -> u64 {
        let tail = self.tail();
        tail + u64::from(low.wrapping_sub(tail as u32) & POSITION)
    }

    /// Write a record; gives its position's low bits. Chunks that became full go to `out`.
    pub fn append(&mut self, entry: &Entry, note: &[u8], out: &mut Vec<u8>) -> u32 {
        let at = self.count(entry);
        self.open.add(entry, note);
        self.unwritten = true;
        if self.open.len() as u64 == self.chunk_size() {
            self.flush(out);
            self.open.clear();
        }
        at
    }

    fn count(&mut self, entry: &Entry) -> u32 {
        if self.head & (self.segment_size() - 1) == 0 {
            self.segments.push_back(Segment { live: 0, wake_ms: NEVER, low_ms: NEVER, high_ms: i64::MIN });
        }
        if ordinary(entry.state) {
            let segment = self.segments.back_mut().expect("just made");
            segment.live += 1;
            segment.low_ms = segment.low_ms.min(entry.due_ms);
            segment.high_ms = segment.high_ms.max(entry.due_ms);
            self.live += 1;
        }
        self.head += 1;
        (self.head - 1) as u32 & POSITION
    }

    /// The newest chunk goes to `out`, full or not; records to come replace it there.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.unwritten {
            return;
        }
        self.unwritten = false;
        out.extend_from_slice(&self.chunk_of(self.head - 1).to_le_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        self.open.write(out);
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Take in a chunk of the log, in order; None where it does not belong there.
    pub fn load(&mut self, base: u64, chunk: Chunk<'_>) -> Option<()> {
        if self.head == 0 && self.segments.is_empty() && base & (self.segment_size() - 1) == 0 {
            (self.head, self.first) = (base, base >> self.shape.segment_bits);
        }
        let count = chunk.len();
        if base != self.head || self.open.len() > 0 || count == 0 || count as u64 > self.chunk_size() {
            return None;
        }
        if (count as u64) < self.chunk_size() {
            (0..count).for_each(|at| self.open.add(&chunk.entry(at), chunk.note(at)));
        }
        Some(())
    }

    /// Count a record of a chunk that `load` took in; gives its position's low bits.
    pub fn loaded(&mut self, entry: &Entry) -> u32 {
        self.count(entry)
    }

    /// A record is not the newest of its id any more.
    pub fn dead(&mut self, low: u32) {
        let at = (self.whole(low) >> self.shape.segment_bits) - self.first;
        self.segments[at as usize].live -= 1;
        self.live -= 1;
    }

    /// The entry of a record went cold: its segment has to be looked at when it is due.
    pub fn cold(&mut self, low: u32, due_ms: i64) {
        let at = (self.whole(low) >> self.shape.segment_bits) - self.first;
        let segment = &mut self.segments[at as usize];
        segment.wake_ms = segment.wake_ms.min(due_ms);
        self.wake_ms = self.wake_ms.min(due_ms);
    }

    /// First positions of segments with cold entries that may be due, and until when to look ahead there.
    pub fn waking(&mut self, watermark_ms: i64) -> Vec<(u64, i64)> {
        let mut found = Vec::new();
        if watermark_ms < self.wake_ms {
            return found;
        }
        self.wake_ms = NEVER;
        for (number, segment) in (self.first..).zip(&mut self.segments) {
            if segment.wake_ms <= watermark_ms {
                segment.wake_ms = NEVER;
                // A little more than what is due: a segment is read a few times, not at every batch.
                let ahead_ms = segment.high_ms.saturating_sub(segment.low_ms) / 8;
                found.push((number << self.shape.segment_bits, watermark_ms.saturating_add(ahead_ms)));
            }
            self.wake_ms = self.wake_ms.min(segment.wake_ms);
        }
        found
    }

    /// Whether the oldest segment is to be cleaned away. It has to stand wholly before `before`.
    pub fn is_over(&self, before: u64) -> bool {
        let records = self.head - self.tail();
        let many = 2 * records > 5 * self.live + 2 * self.shape.slack || records > MOST_RECORDS;
        many && self.tail() + self.segment_size() <= before
    }

    pub fn oldest_live(&self) -> u32 {
        self.segments.front().map_or(0, |segment| segment.live)
    }

    pub fn drop_oldest(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            assert_eq!(segment.live, 0);
            self.first += 1;
        }
    }

    pub fn memory(&self) -> usize {
        self.segments.len() * std::mem::size_of::<Segment>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{GONE, PENDING};

    #[test]
    fn positions_are_whole_again_wherever_the_log_stands() {
        for start in [0u64, (1 << 31) - 16, 5 << 31, (1 << 33) - 8] {
            let mut log = Log::new(Shape { chunk_bits: 2, segment_bits: 3, slack: 0 });
            (log.head, log.first) = (start, start >> 3);
            for n in 0..100 {
                let low = log.append(&Entry { state: PENDING, due_ms: 5, ..Entry::default() }, b"", &mut Vec::new());
                assert_eq!((low >> 31, log.whole(low)), (0, start + n));
            }
        }
    }

    #[test]
    fn the_open_chunk_is_written_again_until_it_is_full() {
        let mut log = Log::new(Shape { chunk_bits: 1, segment_bits: 2, slack: 0 });
        let gone = Entry { state: GONE, ..Entry::default() };
        let mut written = Vec::new();
        for _ in 0..3 {
            let mut out = Vec::new();
            log.append(&gone, b"", &mut out);
            log.flush(&mut out);
            let (base, rest) = out.split_first_chunk::<8>().unwrap();
            written.push((u64::from_le_bytes(*base), Chunk::split(&rest[4..]).unwrap().0.len()));
            log.flush(&mut out);
            assert!(out.len() < 400);
        }
        assert_eq!(written, [(0, 1), (0, 2), (2, 1)]);
    }

    #[test]
    fn segments_wake_when_a_cold_entry_is_due() {
        let mut log = Log::new(Shape { chunk_bits: 1, segment_bits: 2, slack: 0 });
        for due_ms in [10, 90, 50, 60, 70, 80] {
            log.append(&Entry { state: PENDING, due_ms, ..Entry::default() }, b"", &mut Vec::new());
        }
        assert!(log.waking(1_000).is_empty());
        log.cold(1, 90);
        log.cold(4, 70);
        assert!(log.waking(69).is_empty());
        assert_eq!(log.waking(70), [(4, 71)]);
        log.cold(2, 50);
        assert_eq!(log.waking(95), [(0, 105)]);
        assert!(log.waking(NEVER - 1).is_empty());
    }
}
