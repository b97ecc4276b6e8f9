//! Locks.
//!
//! May use: nothing of ours.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also after a panic of an earlier holder. Each change under such a lock must leave a valid state
/// behind at every point where it may panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_survives_the_panic_of_a_holder() {
        let mutex = Mutex::new(1);
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let _held = lock(&mutex);
                panic!("while the lock is held");
            });
            assert!(holder.join().is_err());
        });
        assert_eq!(*lock(&mutex), 1);
    }
}
