//! Records of `joined-deltas`: the contributions of one batch, many versions in one record.

use crate::hash::murmur2;
use crate::join::Partition;
use crate::msgpack::{array, binary, int, text};
use crate::sums;

/// Packed counters in one record, if one version holds no more.
const MOST_BYTES: usize = 400_000;
/// Counters in one pane's contribution; more are given in several.
const MOST_COUNTERS: usize = 30_000;

/// A record while it is filled; `out` holds its deltas.
#[derive(Default)]
struct Open {
    deltas: usize,
    out: Vec<u8>,
}

impl Open {
    /// Write the record as a frame: target, length, bytes.
    fn finish(&mut self, target: u32, frames: &mut Vec<u8>) {
        if self.deltas == 0 {
            return;
        }
        let mut head = Vec::new();
        array(2, &mut head);
        text(b"deltas", &mut head);
        array(self.deltas, &mut head);
        frames.extend_from_slice(&target.to_le_bytes());
        frames.extend_from_slice(&((head.len() + self.out.len()) as u32).to_le_bytes());
        frames.extend_from_slice(&head);
        frames.extend_from_slice(&self.out);
        self.deltas = 0;
        self.out.clear();
    }
}

/// What the batch contributed as finished records, each behind its target partition and its length.
pub fn write(partition: &Partition, from: i64, targets: u32, frames: &mut Vec<u8>) {
    let texts = &partition.texts.items;
    let mut keys: Vec<_> = partition.sums.keys().collect();
    keys.sort_unstable_by(|(_, a), (_, b)| {
        let name = |segment: u32| &texts[segment as usize];
        let versions = partition.plan_names[a.plan as usize].cmp(&partition.plan_names[b.plan as usize]);
        versions.then_with(|| name(a.segment).cmp(name(b.segment))).then((a.pane_ms, a.effect_ms).cmp(&(b.pane_ms, b.effect_ms)))
    });
    let mut open: Vec<Open> = (0..targets).map(|_| Open::default()).collect();
    let (mut counters, mut packed, mut panes) = (Vec::new(), Vec::new(), Vec::new());
    for group in keys.chunk_by(|(_, a), (_, b)| a.plan == b.plan) {
        let plan = group[0].1.plan as usize;
        let (model, version) = &partition.plan_names[plan];
        let target = (murmur2(model) & 0x7fff_ffff) % targets;
        let record = &mut open[target as usize];
        let mut filled = 0;
        panes.clear();
        let delta = |filled: &mut usize, panes: &mut Vec<u8>, record: &mut Open| {
            if *filled == 0 {
                return;
            }
            array(6, &mut record.out);
            text(b"delta", &mut record.out);
            text(model, &mut record.out);
            int(*version, &mut record.out);
            text(&partition.plans[plan].layout, &mut record.out);
            int(from, &mut record.out);
            array(*filled, &mut record.out);
            record.out.extend_from_slice(panes);
            record.deltas += 1;
            panes.clear();
            *filled = 0;
        };
        for (number, key) in group {
            partition.sums.counters(*number, &mut counters);
            for part in counters.chunks(MOST_COUNTERS) {
                packed.clear();
                sums::pack(part, &mut packed);
                if record.out.len() + panes.len() + packed.len() > MOST_BYTES {
                    delta(&mut filled, &mut panes, record);
                    record.finish(target, frames);
                }
                array(4, &mut panes);
                text(&texts[key.segment as usize], &mut panes);
                int(key.pane_ms, &mut panes);
                int(key.effect_ms, &mut panes);
                binary(&packed, &mut panes);
                filled += 1;
            }
        }
        delta(&mut filled, &mut panes, record);
    }
    for (target, record) in open.iter_mut().enumerate() {
        record.finish(target as u32, frames);
    }
}
