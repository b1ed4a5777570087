//! Random numbers that are a pure function of a seed.
//!
//! Invariant: the sequence drawn from a seed never changes between releases; a restart regenerates the same rows.

/// Golden-ratio increment of SplitMix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The SplitMix64 finaliser: a bijection that scatters neighbouring inputs.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of draws for one value.
#[derive(Debug, Clone)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(GOLDEN);
        value
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..count`; 0 when `count` is 0. The bias of the multiply is below 2^-64 * count.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }

    /// Uniform in `low..=high`; `low` when the range is empty.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.wrapping_sub(low) as u64;
        if high < low {
            low
        } else if span == u64::MAX {
            self.next() as i64
        } else {
            low.wrapping_add(self.below(span + 1) as i64)
        }
    }

    /// A rank in `0..count` that falls off as 1/rank (Zipf with exponent 1, by inverting its continuous form).
    pub(super) fn zipf(&mut self, count: u64) -> u64 {
        let rank = ((count as f64 + 1.0).powf(self.unit())) as u64;
        rank.saturating_sub(1).min(count.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_fixed_for_ever() {
        // Published SplitMix64 outputs for seed 0.
        let mut draw = Draw::new(0);
        assert_eq!(
            [draw.next(), draw.next(), draw.next()],
            [
                0xE220_A839_7B1D_CDAF,
                0x6E78_9E6A_A1B9_65F4,
                0x06C4_5D18_8009_454F
            ]
        );
    }

    #[test]
    fn draws_stay_in_range() {
        let mut draw = Draw::new(7);
        for _ in 0..1000 {
            assert!((-3..=3).contains(&draw.between(-3, 3)));
            assert_eq!(draw.between(5, 4), 5);
            assert!(draw.zipf(10) < 10);
            assert_eq!(draw.zipf(0), 0);
            assert!((0.0..1.0).contains(&draw.unit()));
            draw.between(i64::MIN, i64::MAX);
        }
    }

    #[test]
    fn zipf_prefers_low_ranks() {
        let mut draw = Draw::new(1);
        let mut hits = [0u32; 100];
        for _ in 0..10_000 {
            hits[draw.zipf(100) as usize] += 1;
        }
        assert!(
            hits[0] > 1000 && hits[0] > hits[9] * 4 && hits[9] > 0,
            "{hits:?}"
        );
    }
}
