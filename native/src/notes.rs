//! What some entries need beyond their fields: a waiting label its record as it was read, for the dead letter it may
//! become; a prediction of many classes its probabilities.

use crate::maps::Map;

const HEAD: usize = 24;
const NO_KEY: i32 = -1;

/// Notes by the slot of their entry, with what was before the batch.
#[derive(Default)]
pub struct Notes {
    of: Map<u32, Box<[u8]>>,
    undo: Vec<(u32, Option<Box<[u8]>>)>,
    bytes: usize,
}

impl Notes {
    pub fn get(&self, slot: u32) -> &[u8] {
        self.of.get(&slot).map_or(&[], |note| note)
    }

    /// Change a note within a batch; an empty one is none.
    pub fn set(&mut self, slot: u32, note: Box<[u8]>) {
        let before = self.replace(slot, note);
        self.undo.push((slot, before));
    }

    /// Change a note where no batch is open.
    pub fn put(&mut self, slot: u32, note: &[u8]) {
        self.replace(slot, note.into());
    }

    fn replace(&mut self, slot: u32, note: Box<[u8]>) -> Option<Box<[u8]>> {
        self.bytes += note.len();
        let before = if note.is_empty() { self.of.remove(&slot) } else { self.of.insert(slot, note) };
        self.bytes -= before.as_ref().map_or(0, |before| before.len());
        before
    }

    pub fn commit(&mut self) {
        self.undo.clear();
    }

    pub fn abort(&mut self) {
        for (slot, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.replace(slot, before.unwrap_or_default());
        }
    }

    /// Bytes that the notes take, about.
    pub fn memory(&self) -> usize {
        self.of.capacity() * 25 + self.of.len() * 16 + self.bytes
    }
}

/// A note, as `streams/native/entries.py` reads it; headers are added behind.
pub fn note(offset: i64, timestamp_ms: i64, key: Option<&[u8]>, value: &[u8]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(HEAD + key.map_or(0, <[u8]>::len) + value.len());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&timestamp_ms.to_le_bytes());
    out.extend_from_slice(&key.map_or(NO_KEY, |key| key.len() as i32).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key.unwrap_or_default());
    out.extend_from_slice(value);
    out.into_boxed_slice()
}

/// The note of a prediction; empty where there is nothing to note.
pub fn of_prediction(probabilities: &[f64]) -> Box<[u8]> {
    if probabilities.is_empty() {
        return Box::default();
    }
    let mut out = Vec::with_capacity(4 + 8 * probabilities.len());
    out.extend_from_slice(&(probabilities.len() as u32).to_le_bytes());
    probabilities.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    out.into_boxed_slice()
}

/// Probabilities by class in the note of a prediction.
pub fn probabilities(note: &[u8], out: &mut Vec<f64>) {
    out.clear();
    if let Some((count, rest)) = note.split_first_chunk() {
        let values = rest.chunks_exact(8).take(u32::from_le_bytes(*count) as usize);
        out.extend(values.map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_changed_comes_back() {
        let mut notes = Notes::default();
        notes.put(1, b"one");
        notes.put(2, b"two");
        notes.set(1, Box::from(*b"other"));
        notes.set(1, Box::default());
        notes.set(3, note(7, 8, None, b"{}"));
        notes.abort();
        assert_eq!((notes.get(1), notes.get(2), notes.get(3)), (&b"one"[..], &b"two"[..], &b""[..]));
        notes.set(1, Box::default());
        notes.commit();
        notes.abort();
        assert!(notes.get(1).is_empty());
        assert_eq!(notes.bytes, 3);
    }
}
