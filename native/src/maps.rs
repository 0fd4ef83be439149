//! Hash maps of what strangers name: quick, and with a seed of the process so that nobody can choose keys to collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::hash;

pub type Map<K, V> = HashMap<K, V, Seeded>;

#[derive(Clone, Copy)]
pub struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Seeded(RandomState::new().build_hasher().finish())
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

pub struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash::seeded(bytes, self.0);
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = hash::fold(self.0.rotate_left(29) ^ value, 0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_keys_spread() {
        let seed = Seeded::default();
        let mut low = std::collections::HashSet::new();
        for n in 0..10_000u32 {
            low.insert(seed.hash_one(format!("origin={n}").as_bytes()) & 0xffff);
            low.insert(seed.hash_one(n) & 0xffff);
        }
        // As many as chance would leave: 65,536 · (1 − e^(−20,000 / 65,536)) ≈ 17,200.
        assert!(low.len() > 16_500, "{}", low.len());
    }
}
