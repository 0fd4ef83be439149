//! Entries with their notes as the checkpoint keeps them: how many, the entries, then notes by the entry's number.

use crate::table::{Entry, SIZE};

pub struct Block<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    count: u32,
    notes: Vec<u8>,
}

impl<'a> Block<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        Block { out, start, count: 0, notes: Vec::new() }
    }

    pub fn add(&mut self, entry: &Entry, note: &[u8]) {
        self.out.extend_from_slice(entry.bytes());
        if !note.is_empty() {
            self.notes.extend_from_slice(&self.count.to_le_bytes());
            self.notes.extend_from_slice(&(note.len() as u32).to_le_bytes());
            self.notes.extend_from_slice(note);
        }
        self.count += 1;
    }

    /// A block of nothing leaves nothing behind.
    pub fn end(self) {
        if self.count == 0 {
            self.out.truncate(self.start);
            return;
        }
        self.out[self.start..self.start + 4].copy_from_slice(&self.count.to_le_bytes());
        self.out.extend_from_slice(&self.notes);
    }
}

/// Call `each` at every entry with its note, which may be empty; None where the bytes are damaged.
pub fn read(bytes: &[u8], mut each: impl FnMut(Entry, &[u8]) -> Option<()>) -> Option<()> {
    if bytes.is_empty() {
        return Some(());
    }
    let (count, rest) = number(bytes)?;
    let (entries, mut notes) = split(rest, (count as usize).checked_mul(SIZE)?)?;
    let mut next = if notes.is_empty() { None } else { Some(take(&mut notes)?) };
    for (index, entry) in entries.chunks_exact(SIZE).enumerate() {
        let found = next.filter(|(of, _)| *of as usize == index);
        each(Entry::from_bytes(entry), found.map_or(&[], |(_, note)| note))?;
        if found.is_some() {
            next = if notes.is_empty() { None } else { Some(take(&mut notes)?) };
        }
    }
    next.is_none().then_some(())
}

fn take<'a>(notes: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (index, rest) = number(notes)?;
    let (length, rest) = number(rest)?;
    let (note, rest) = split(rest, length as usize)?;
    *notes = rest;
    Some((index, note))
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = split(bytes, 4)?;
    Some((u32::from_le_bytes(head.try_into().ok()?), rest))
}

fn split(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    (at <= bytes.len()).then(|| bytes.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = Vec::new();
        let mut block = Block::begin(&mut bytes);
        for (payload, note) in [(1, &b""[..]), (2, b"two"), (3, b""), (4, b"four")] {
            block.add(&Entry { payload, ..Entry::default() }, note);
        }
        block.end();
        let mut found = Vec::new();
        let whole = read(&bytes, |entry, note| {
            found.push((entry.payload, note.to_vec()));
            Some(())
        });
        assert!(whole.is_some());
        assert_eq!(found, vec![(1, vec![]), (2, b"two".to_vec()), (3, vec![]), (4, b"four".to_vec())]);
        for length in 1..bytes.len() {
            let cut = read(&bytes[..length], |_, _| Some(()));
            // Only a cut between notes reads as a whole block with fewer of them.
            assert!(cut.is_none() || length == 4 + 4 * SIZE || length == bytes.len() - 12, "{length}");
        }
    }

    #[test]
    fn nothing_is_no_bytes() {
        let mut bytes = Vec::new();
        Block::begin(&mut bytes).end();
        assert!(bytes.is_empty() && read(&bytes, |_, _| Some(())).is_some());
    }
}
