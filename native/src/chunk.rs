//! Records of the log as the store keeps them: chunks of consecutive ones.
//!
//! `[records u16][bytes of notes u32]`, the records, then notes as `[record u16][length u32][bytes]` in their order.

use crate::table::{Entry, SIZE};

const HEAD: usize = 6;

/// A chunk that is being filled.
#[derive(Default)]
pub struct Builder {
    records: Vec<u8>,
    notes: Vec<u8>,
}

impl Builder {
    pub fn len(&self) -> usize {
        self.records.len() / SIZE
    }

    pub fn add(&mut self, entry: &Entry, note: &[u8]) {
        if !note.is_empty() {
            self.notes.extend_from_slice(&(self.len() as u16).to_le_bytes());
            self.notes.extend_from_slice(&(note.len() as u32).to_le_bytes());
            self.notes.extend_from_slice(note);
        }
        self.records.extend_from_slice(entry.bytes());
    }

    pub fn clear(&mut self) {
        self.records.clear();
        self.notes.clear();
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        self.chunk().write(out);
    }

    pub fn chunk(&self) -> Chunk<'_> {
        Chunk { records: &self.records, notes: &self.notes }
    }
}

/// A chunk that was read.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    records: &'a [u8],
    notes: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// The first chunk of some, and the others; None where it is damaged.
    pub fn split(bytes: &'a [u8]) -> Option<(Chunk<'a>, &'a [u8])> {
        let (head, rest) = cut(bytes, HEAD)?;
        let count = u16::from_le_bytes(head[..2].try_into().ok()?);
        let notes = u32::from_le_bytes(head[2..].try_into().ok()?);
        let (records, rest) = cut(rest, usize::from(count) * SIZE)?;
        let (notes, rest) = cut(rest, notes as usize)?;
        let chunk = Chunk { records, notes };
        let mut at = chunk.notes();
        if at.by_ref().any(|(record, _)| record >= chunk.len()) {
            return None;
        }
        at.rest.is_empty().then_some((chunk, rest))
    }

    pub fn len(&self) -> usize {
        self.records.len() / SIZE
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.notes.len() as u32).to_le_bytes());
        out.extend_from_slice(self.records);
        out.extend_from_slice(self.notes);
    }

    pub fn entry(&self, at: usize) -> Entry {
        Entry::from_bytes(&self.records[at * SIZE..][..SIZE])
    }

    /// The id of a record, without the rest.
    #[inline(always)]
    pub fn id(&self, at: usize) -> [u64; 2] {
        let bytes = &self.records[at * SIZE..];
        let half = |from: usize| u64::from_ne_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
        [half(0), half(8)]
    }

    /// The note of a record; empty where it has none.
    pub fn note(&self, at: usize) -> &'a [u8] {
        self.notes().find(|(record, _)| *record == at).map_or(&[], |(_, note)| note)
    }

    fn notes(&self) -> Notes<'a> {
        Notes { rest: self.notes }
    }
}

struct Notes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Notes<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = cut(self.rest, HEAD)?;
        let record = u16::from_le_bytes(head[..2].try_into().ok()?);
        let length = u32::from_le_bytes(head[2..].try_into().ok()?);
        let (note, rest) = cut(rest, length as usize)?;
        self.rest = rest;
        Some((usize::from(record), note))
    }
}

fn cut(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    (at <= bytes.len()).then(|| bytes.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_part_of_it_is_not() {
        let mut builder = Builder::default();
        for (payload, note) in [(1, &b""[..]), (2, b"two"), (3, b""), (4, b"four")] {
            builder.add(&Entry { payload, ..Entry::default() }, note);
        }
        let mut bytes = Vec::new();
        builder.write(&mut bytes);
        for length in 0..bytes.len() {
            assert!(Chunk::split(&bytes[..length]).is_none());
        }
        bytes.extend_from_slice(b"next");
        let (chunk, rest) = Chunk::split(&bytes).unwrap();
        let found: Vec<_> = (0..chunk.len()).map(|at| (chunk.entry(at).payload, chunk.note(at))).collect();
        assert_eq!(found, [(1, &b""[..]), (2, b"two"), (3, b""), (4, b"four")]);
        assert_eq!(rest, b"next");
        assert_eq!(builder.chunk().note(3), b"four");
    }

    #[test]
    fn a_note_of_no_record_is_damage() {
        let mut builder = Builder::default();
        builder.add(&Entry::default(), b"note");
        let mut bytes = Vec::new();
        builder.write(&mut bytes);
        bytes[HEAD + SIZE] = 1;
        assert!(Chunk::split(&bytes).is_none());
    }
}
