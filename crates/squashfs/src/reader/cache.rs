//! A bounded cache in which each value is made once, however many ask.
//!
//! Keys are spread over shards, each with a short lock that is never held
//! while a value is made: the first asker makes it, the others wait for that
//! entry alone. Replacement is by clock (second chance).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::Error;

/// Most shards; a small cache has fewer, so that each has room for two.
const SHARDS: usize = 16;

/// What values are found by.
pub(crate) trait Key: Copy + Eq + Hash {
    /// Which shard has it; neighbours are in different ones.
    fn spread(self) -> u64;
}

impl Key for u64 {
    fn spread(self) -> u64 {
        self.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Key for (u64, u64) {
    fn spread(self) -> u64 {
        (self.0.spread() ^ self.1).spread()
    }
}

type Slot<V> = Arc<OnceLock<Result<V, Error>>>;

struct Shard<K, V> {
    map: HashMap<K, usize>,
    ring: Vec<(K, Slot<V>, bool)>,
    hand: usize,
}

/// The cache.
pub(crate) struct Cache<K, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
    per_shard: usize,
}

impl<K: Key, V: Clone> Cache<K, V> {
    /// A cache of at most `capacity` values, but of two at least.
    pub(crate) fn new(capacity: usize) -> Self {
        let shard = || Mutex::new(Shard { map: HashMap::new(), ring: Vec::new(), hand: 0 });
        let shards = (capacity / 2).clamp(1, SHARDS);
        let per_shard = (capacity / shards).max(2);
        Self { shards: (0..shards).map(|_| shard()).collect(), per_shard }
    }

    fn shard(&self, key: K) -> MutexGuard<'_, Shard<K, V>> {
        let index = (key.spread() >> 32) as usize % self.shards.len();
        // A holder cannot panic between lock and unlock.
        self.shards[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The value of a key, made if need be. A failure reaches everybody who
    /// waited for it and is not kept, so that the next asker tries again.
    pub(crate) fn get(&self, key: K, make: impl FnOnce() -> Result<V, Error>) -> Result<V, Error> {
        let slot = self.slot(key);
        let value = slot.get_or_init(make).clone();
        if value.is_err() {
            self.forget(key, &slot);
        }
        value
    }

    /// The value of a key if it is there; waits for nobody.
    pub(crate) fn peek(&self, key: K) -> Option<V> {
        let shard = self.shard(key);
        let slot = shard.map.get(&key).map(|index| &shard.ring[*index].1)?;
        slot.get()?.as_ref().ok().cloned()
    }

    fn slot(&self, key: K) -> Slot<V> {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        if let Some(index) = shard.map.get(&key) {
            let entry = &mut shard.ring[*index];
            entry.2 = true;
            return Arc::clone(&entry.1);
        }
        let slot: Slot<V> = Arc::new(OnceLock::new());
        if shard.ring.len() < self.per_shard {
            shard.map.insert(key, shard.ring.len());
            shard.ring.push((key, Arc::clone(&slot), false));
            return slot;
        }
        loop {
            shard.hand = (shard.hand + 1) % shard.ring.len();
            let entry = &mut shard.ring[shard.hand];
            if std::mem::take(&mut entry.2) {
                continue;
            }
            shard.map.remove(&entry.0);
            *entry = (key, Arc::clone(&slot), false);
            shard.map.insert(key, shard.hand);
            return slot;
        }
    }

    /// Replaces a slot whose making failed, unless that has happened already.
    fn forget(&self, key: K, failed: &Slot<V>) {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        if let Some(index) = shard.map.get(&key) {
            let entry = &mut shard.ring[*index];
            if Arc::ptr_eq(&entry.1, failed) {
                entry.1 = Arc::new(OnceLock::new());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_value_is_made_once_for_all_who_wait() {
        let cache = Cache::<u64, i32>::new(8);
        let made = AtomicUsize::new(0);
        let get = || {
            cache.get(5, || {
                made.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(20));
                Ok(7)
            })
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(get().unwrap(), 7));
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_not_kept_and_the_size_is_bounded() {
        let cache = Cache::<u64, u64>::new(32);
        assert!(cache.get(1, || Err(Error::NotSquashfs)).is_err());
        assert_eq!(cache.get(1, || Ok(2)).unwrap(), 2);
        for key in 0..10_000 {
            assert_eq!(cache.get(key, || Ok(key)).unwrap(), if key == 1 { 2 } else { key });
        }
        let kept: usize = cache.shards.iter().map(|s| s.lock().unwrap().ring.len()).sum();
        assert!(kept <= 32, "{kept}");
        assert_eq!((cache.peek(9_999), cache.peek(10_000)), (Some(9_999), None));
    }

    #[test]
    fn a_small_cache_is_small() {
        for capacity in [0, 1, 2, 3, 7, 33, 100] {
            let cache = Cache::<(u64, u64), u64>::new(capacity);
            for key in 0..1000 {
                assert_eq!(cache.get((key / 7, key), || Ok(key)).unwrap(), key);
            }
            let kept: usize = cache.shards.iter().map(|s| s.lock().unwrap().ring.len()).sum();
            assert!(kept <= capacity.max(2) && kept * 2 >= capacity, "{capacity}: {kept}");
        }
    }
}
