//! Where the entry of an id is: one word an entry, whose high half is part of the id and whose low half says where.
//!
//! A word's place follows from its high half alone, so growing and closing gaps read no entry: most of them are on disk.

/// In a low half: the entry is not in memory, the rest is its position in the log; otherwise the rest is its slot + 1.
pub const COLD: u32 = 1 << 31;
const SMALLEST: usize = 1 << 10;

#[derive(Default)]
pub struct Index {
    /// 0 where free.
    words: Vec<u64>,
    count: usize,
}

/// The part of an id that a word holds.
#[inline(always)]
pub fn tag(id: [u64; 2]) -> u32 {
    (id[0] >> 32) as u32
}

impl Index {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn memory(&self) -> usize {
        self.words.len() * 8
    }

    #[inline(always)]
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.words.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn after(&self, cell: usize) -> usize {
        if cell + 1 == self.words.len() { 0 } else { cell + 1 }
    }

    /// Ask the processor for the words around a tag's place.
    #[inline(always)]
    pub fn prefetch(&self, tag: u32) {
        #[cfg(target_arch = "x86_64")]
        if !self.words.is_empty() {
            // Sound: a hint; the address is inside the vector.
            unsafe {
                let word = self.words.as_ptr().add(self.home(tag));
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(word.cast());
            }
        }
    }

    /// Call `each` with cell and low half of every word of a tag, until it says true.
    #[inline(always)]
    pub fn of(&self, tag: u32, mut each: impl FnMut(usize, u32) -> bool) {
        if self.words.is_empty() {
            return;
        }
        let mut cell = self.home(tag);
        loop {
            let word = self.words[cell];
            if word == 0 || ((word >> 32) as u32 == tag && each(cell, word as u32)) {
                return;
            }
            cell = self.after(cell);
        }
    }

    pub fn cell(&self, tag: u32, low: u32) -> Option<usize> {
        let mut found = None;
        self.of(tag, |cell, at| {
            found = (at == low).then_some(cell);
            at == low
        });
        found
    }

    pub fn insert(&mut self, tag: u32, low: u32) {
        if (self.count + 1) * 20 > self.words.len() * 17 {
            self.grow();
        }
        self.place(u64::from(tag) << 32 | u64::from(low));
        self.count += 1;
    }

    pub fn set(&mut self, cell: usize, low: u32) {
        self.words[cell] = self.words[cell] >> 32 << 32 | u64::from(low);
    }

    fn place(&mut self, word: u64) {
        let mut cell = self.home((word >> 32) as u32);
        while self.words[cell] != 0 {
            cell = self.after(cell);
        }
        self.words[cell] = word;
    }

    fn grow(&mut self) {
        // By a quarter: old and new words stand in the order of their tags, so this is one walk through both.
        let size = (self.words.len() + self.words.len() / 4).max(SMALLEST);
        for word in std::mem::replace(&mut self.words, vec![0; size]) {
            if word != 0 {
                self.place(word);
            }
        }
    }

    pub fn remove(&mut self, cell: usize) {
        let size = self.words.len();
        let distance = |from: usize, to: usize| if to >= from { to - from } else { to + size - from };
        // Close the gap: whatever follows and could stand nearer to its home moves up.
        let (mut hole, mut at) = (cell, cell);
        loop {
            at = self.after(at);
            let word = self.words[at];
            if word == 0 {
                break;
            }
            if distance(self.home((word >> 32) as u32), at) >= distance(hole, at) {
                self.words[hole] = word;
                hole = at;
            }
        }
        self.words[hole] = 0;
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn holds_what_a_set_holds() {
        let (mut index, mut set, mut seed) = (Index::default(), HashSet::new(), 7u64);
        for step in 0..200_000u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few tags at both ends, so that many are equal and words run over the end.
            let tag = ((seed >> 33) as u32 % 3_000).wrapping_sub(1_500);
            let low = (seed >> 20) as u32 % 8 + 1;
            match index.cell(tag, low) {
                Some(cell) if step % 3 > 0 => {
                    index.remove(cell);
                    assert!(set.remove(&(tag, low)));
                }
                Some(_) => assert!(set.contains(&(tag, low))),
                None => {
                    index.insert(tag, low);
                    assert!(set.insert((tag, low)));
                }
            }
            assert_eq!(index.len(), set.len());
        }
        for tag in (0..1_500).chain((0..1_500).map(|n: u32| n.wrapping_sub(1_500))) {
            let mut lows = HashSet::new();
            index.of(tag, |_, low| !lows.insert(low));
            assert_eq!(lows, (1..=8).filter(|low| set.contains(&(tag, *low))).collect());
        }
    }

    #[test]
    fn a_word_is_changed_where_it_stands() {
        let mut index = Index::default();
        index.insert(5, 1);
        index.insert(5, 2);
        index.set(index.cell(5, 1).unwrap(), COLD | 9);
        assert_eq!((index.cell(5, 1), index.cell(5, COLD | 9).is_some(), index.len()), (None, true, 2));
    }
}
