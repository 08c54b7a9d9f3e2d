//! How many deliveries may come: a bucket that fills with time. Pure: the time is an argument.

use std::time::Duration;

/// A bucket of permits.
#[derive(Debug)]
pub(super) struct Bucket {
    /// How many permits it holds.
    size: f64,
    /// How many it gets back in a second.
    per_second: f64,
    level: f64,
    filled: Duration,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(size: u32, per_second: u32) -> Self {
        let size = f64::from(size);
        Self { size, per_second: f64::from(per_second), level: size, filled: Duration::ZERO }
    }

    /// Takes one permit, if there is one. `now` counts from any beginning that never goes back.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.level = (self.level + passed * self.per_second).min(self.size);
        let taken = self.level >= 1.0;
        if taken {
            self.level -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_as_fast_as_it_fills() {
        let mut bucket = Bucket::new(3, 2);
        let taken = |bucket: &mut Bucket, ms| bucket.take(Duration::from_millis(ms));
        let at_once: Vec<bool> = (0..5).map(|_| taken(&mut bucket, 0)).collect();
        assert_eq!(at_once, [true, true, true, false, false]);
        assert!(!taken(&mut bucket, 499));
        assert!(taken(&mut bucket, 500));
        assert!(!taken(&mut bucket, 501));
        assert!(taken(&mut bucket, 60_000) && taken(&mut bucket, 60_000) && taken(&mut bucket, 60_000));
        assert!(!taken(&mut bucket, 60_000));
    }

    proptest! {
        #[test]
        fn no_more_pass_than_size_and_time_allow(pauses in proptest::collection::vec(0_u64..300, 1..200)) {
            let mut bucket = Bucket::new(5, 10);
            let (mut now, mut passed) = (Duration::ZERO, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                passed += u32::from(bucket.take(now));
                prop_assert!(f64::from(passed) <= 5.0 + now.as_secs_f64() * 10.0 + 1e-6);
            }
        }
    }
}
