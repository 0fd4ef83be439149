//! One copy of what many plans have alike: names of features and tables of categories.
//!
//! With tens of thousands of models it is not the memory that counts but the cache: what all share stays in it.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Copies known; those that nobody else holds go when it has doubled.
pub struct Shared<T: ?Sized + Hash + Eq>(Mutex<Option<Known<T>>>);

struct Known<T: ?Sized + Hash + Eq> {
    items: HashSet<Arc<T>>,
    most: usize,
}

const LEAST: usize = 1_024;

impl<T: ?Sized + Hash + Eq> Shared<T> {
    pub const fn new() -> Self {
        Shared(Mutex::new(None))
    }

    pub fn of(&self, item: Box<T>) -> Arc<T> {
        // A panic elsewhere leaves the set as it was: it is only ever added to.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(|| Known { items: HashSet::new(), most: LEAST });
        if let Some(found) = known.items.get(&*item) {
            return found.clone();
        }
        if known.items.len() >= known.most {
            known.items.retain(|item| Arc::strong_count(item) > 1);
            known.most = LEAST.max(known.items.len() * 2);
        }
        let found: Arc<T> = item.into();
        known.items.insert(found.clone());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_items_are_one_and_unused_ones_go() {
        let shared: Shared<[u8]> = Shared::new();
        let one = shared.of(b"name"[..].into());
        assert!(Arc::ptr_eq(&one, &shared.of(b"name"[..].into())));
        for number in 0..5_000u32 {
            shared.of(number.to_le_bytes()[..].into());
        }
        assert!(shared.0.lock().unwrap().as_ref().unwrap().items.len() <= LEAST + 1);
        assert!(Arc::ptr_eq(&one, &shared.of(b"name"[..].into())));
    }
}
