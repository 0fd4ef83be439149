//! What a partition keeps: a batch counts or does not, and the log of its table is written, read and cleaned.

use crate::chunk::Chunk;
use crate::join::{Counts, Partition};
use crate::table::{Entry, GONE, TEXT, TOUCHED, WAITING};

impl Partition {
    /// The batch counts. Writes the log's oldest position before and after, then chunks: `[position u64][length u32]` and
    /// their bytes. Those between the two positions are to be deleted.
    pub fn commit(&mut self, out: &mut Vec<u8>) {
        let table = &mut self.table;
        let (head, tail) = (table.log.head(), table.log.tail());
        out.extend_from_slice(&[0; 16]);
        for (slot, _) in self.undo.drain(..) {
            table.at_mut(slot).flags &= !TOUCHED;
            table.write(slot, out);
            if table.at(slot).state == GONE {
                table.remove(slot);
            }
        }
        table.notes.commit();
        table.clean(head, out);
        table.log.flush(out);
        out[..8].copy_from_slice(&tail.to_le_bytes());
        out[8..16].copy_from_slice(&table.log.tail().to_le_bytes());
        table.evict();
        table.shrink();
        self.clear();
    }

    pub fn abort(&mut self) {
        for (slot, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            match before {
                Some(before) => self.table.restore(slot, before),
                None => self.table.remove(slot),
            }
        }
        self.table.notes.abort();
        self.clear();
    }

    fn clear(&mut self) {
        self.bare.clear();
        self.sums.clear();
        self.counts = Counts::default();
        self.live.clear();
    }

    /// Take in chunks of the log, the oldest first; None where they are damaged.
    pub fn load(&mut self, bases: &[u64], bytes: &[u8]) -> Option<()> {
        let (plans, segments, texts) = (self.plans.len(), self.segments.items.len(), self.texts.items.len());
        let known = |entry: &Entry| {
            let text = entry.label_kind != TEXT || (entry.label as usize) < texts;
            text && (entry.state == WAITING || ((entry.plan as usize) < plans && (entry.segments as usize) < segments))
        };
        let mut rest = bytes;
        for base in bases {
            let (chunk, others) = Chunk::split(rest)?;
            self.table.load(*base, chunk, known)?;
            rest = others;
        }
        rest.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Shape;
    use crate::table::{NEVER, NOTED};
    use std::cell::RefCell;
    use std::collections::{BTreeMap, HashMap};
    use std::rc::Rc;

    type Store = Rc<RefCell<BTreeMap<u64, Vec<u8>>>>;
    /// What is known of an entry: payload, due, note.
    type Model = HashMap<u64, (u64, i64, Vec<u8>)>;

    fn id(n: u64) -> [u64; 2] {
        let id = crate::hash::id(&n.to_le_bytes());
        // Few tags: other ids have the same.
        [(id >> 64) as u64 & 0x0f0f_0000_ffff_ffff, id as u64]
    }

    fn open(shape: Shape, store: &Store, budget: usize) -> Partition {
        let mut partition = Partition::new(shape);
        let from = Rc::clone(store);
        partition.table.source = Some(Box::new(move |bases, out| {
            bases.iter().all(|base| from.borrow().get(base).map(|chunk| out.extend_from_slice(chunk)).is_some())
        }));
        partition.table.budget = budget;
        let chunks: Vec<(u64, Vec<u8>)> = store.borrow().iter().map(|(base, chunk)| (*base, chunk.clone())).collect();
        for some in chunks.chunks(3) {
            let bases: Vec<u64> = some.iter().map(|(base, _)| *base).collect();
            partition.load(&bases, &some.iter().flat_map(|(_, chunk)| chunk.clone()).collect::<Vec<u8>>()).unwrap();
        }
        partition.table.warm();
        partition
    }

    fn noted(partition: &mut Partition, slot: u32, note: &[u8]) {
        let flags = &mut partition.table.at_mut(slot).flags;
        *flags = if note.is_empty() { *flags & !NOTED } else { *flags | NOTED };
        partition.table.notes.set(slot, note.into());
    }

    fn commit(partition: &mut Partition, store: &Store) {
        let mut out = Vec::new();
        partition.commit(&mut out);
        let number = |at: usize| u64::from_le_bytes(out[at..at + 8].try_into().unwrap());
        let mut at = 16;
        while at < out.len() {
            let length = u32::from_le_bytes(out[at + 8..at + 12].try_into().unwrap()) as usize;
            store.borrow_mut().insert(number(at), out[at + 12..at + 12 + length].to_vec());
            at += 12 + length;
        }
        store.borrow_mut().retain(|base, _| !(number(0)..number(8)).contains(base));
    }

    fn check(partition: &mut Partition, model: &Model) {
        assert_eq!(partition.table.len(), model.len());
        let (mut from, mut found) = (partition.table.log.tail(), HashMap::new());
        while from < partition.table.log.head() {
            partition.table.export(from, |entry, note| {
                let n = entry.event_ms as u64;
                assert_eq!(entry.id, id(n));
                assert!(found.insert(n, (entry.payload, entry.due_ms, note.to_vec())).is_none());
            });
            from += partition.table.log.segment_size();
        }
        assert_eq!(&found, model);
    }

    fn run(seed: u64, budget: usize, steps: usize) {
        let shape = Shape { chunk_bits: 1 + (seed % 3) as u32, segment_bits: 3 + (seed % 2) as u32, slack: 8 };
        let store = Store::default();
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let (mut model, mut partition, mut now) = (Model::new(), open(shape, &store, budget), 0i64);
        for step in 0..steps {
            let mut changed = model.clone();
            for _ in 0..next(12) {
                let n = next(60);
                let found = partition.table.find(id(n));
                assert_eq!(found.map(|slot| partition.table.at(slot).payload), changed.get(&n).map(|known| known.0));
                let (payload, due_ms) = (next(1 << 30), now + 1 + next(200) as i64);
                let note = vec![n as u8; next(5) as usize];
                match found {
                    Some(slot) if next(3) == 0 => {
                        partition.touch(slot);
                        partition.table.due(slot, NEVER);
                        noted(&mut partition, slot, b"");
                        partition.table.at_mut(slot).state = GONE;
                        changed.remove(&n);
                        // What is gone is not found by kernels before the commit either way: look at it no more.
                        commit(&mut partition, &store);
                        model = changed.clone();
                    }
                    Some(slot) => {
                        partition.touch(slot);
                        partition.table.at_mut(slot).payload = payload;
                        partition.table.due(slot, due_ms);
                        noted(&mut partition, slot, &note);
                        changed.insert(n, (payload, due_ms, note));
                    }
                    None => {
                        let slot = partition.table.insert(Entry {
                            id: id(n), payload, event_ms: n as i64, due_ms, state: WAITING, flags: TOUCHED,
                            ..Entry::default()
                        });
                        partition.undo.push((slot, None));
                        noted(&mut partition, slot, &note);
                        changed.insert(n, (payload, due_ms, note));
                    }
                }
            }
            if next(4) == 0 {
                now += next(60) as i64;
                partition.table.wake(now);
                let mut due = Vec::new();
                partition.table.take_due(now, &mut due);
                let mut found: Vec<u64> = due.iter().map(|slot| partition.table.at(*slot).event_ms as u64).collect();
                found.sort_unstable();
                let mut expected: Vec<u64> =
                    changed.iter().filter(|(_, known)| known.1 <= now).map(|(n, _)| *n).collect();
                expected.sort_unstable();
                assert_eq!(found, expected);
                for slot in due {
                    partition.touch(slot);
                    partition.table.due(slot, now + 50);
                    changed.get_mut(&(partition.table.at(slot).event_ms as u64)).unwrap().1 = now + 50;
                }
            }
            if next(3) == 0 {
                partition.abort();
            } else {
                commit(&mut partition, &store);
                model = changed;
            }
            if step % 7 == 0 {
                check(&mut partition, &model);
            }
            if next(6) == 0 {
                partition = open(shape, &store, budget);
                check(&mut partition, &model);
            }
            assert!(store.borrow().len() < 400, "the log is not cleaned");
        }
    }

    #[test]
    fn holds_what_a_map_holds_wherever_it_keeps_it() {
        for seed in 0..5 {
            run(seed, usize::MAX, 200);
            run(seed, 0, 200);
            // The index alone takes 8 KiB; some entries beside it.
            run(seed, 9 * 1024 + (seed as usize % 16) * 112, 200);
        }
    }

    #[test]
    fn a_damaged_log_is_refused() {
        let store = Store::default();
        let shape = Shape { chunk_bits: 1, segment_bits: 2, slack: 100 };
        let mut partition = open(shape, &store, 0);
        for n in 0..8 {
            let entry = Entry { id: id(n), due_ms: 5, state: WAITING, flags: TOUCHED, ..Entry::default() };
            let slot = partition.table.insert(entry);
            partition.undo.push((slot, None));
        }
        commit(&mut partition, &store);
        let whole = store.borrow().clone();
        for damage in 0..4 {
            let mut chunks = whole.clone();
            match damage {
                0 => drop(chunks.remove(&2)),
                1 => chunks.get_mut(&4).unwrap().truncate(50),
                2 => chunks.get_mut(&4).unwrap().extend_from_slice(b"more"),
                _ => drop(chunks.insert(4, whole[&4].iter().map(|byte| byte ^ 0x40).collect())),
            }
            let bases: Vec<u64> = chunks.keys().copied().collect();
            let bytes: Vec<u8> = chunks.into_values().flatten().collect();
            assert!(Partition::new(shape).load(&bases, &bytes).is_none());
        }
    }
}
