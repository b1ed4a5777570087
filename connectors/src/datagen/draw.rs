//! Random numbers that are a pure function of a seed.
//!
//! Invariant: the sequence drawn from a seed never changes between releases; a restart regenerates the same rows.

/// Golden-ratio increment of SplitMix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The SplitMix64 finaliser: a bijection that scatters neighbouring inputs.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of draws for one value.
#[derive(Debug, Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(GOLDEN);
        value
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..count`; 0 when `count` is 0. The bias of the multiply is below 2^-64 * count.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }

    /// Uniform in `low..=high`; `low` when the range is empty.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.wrapping_sub(low) as u64;
        if high < low {
            low
        } else if span == u64::MAX {
            self.next() as i64
        } else {
            low.wrapping_add(self.below(span + 1) as i64)
        }
    }

    /// A rank in `0..count` that falls off as 1/rank^exponent (Zipf, by inverting its continuous form).
    pub(crate) fn zipf(&mut self, count: u64, exponent: f64) -> u64 {
        let (top, unit, power) = (count as f64 + 1.0, self.unit(), 1.0 - exponent);
        let rank = if power.abs() < 1e-9 {
            top.powf(unit)
        } else {
            (1.0 + unit * (top.powf(power) - 1.0)).powf(1.0 / power)
        };
        (rank as u64).saturating_sub(1).min(count.saturating_sub(1))
    }
}

/// Shares of values that are not equally likely.
#[derive(Debug)]
pub(crate) struct Shares {
    /// For each value, the sum of the weights up to it.
    sums: Vec<f64>,
}

impl Shares {
    /// `None` when a weight is negative or they add up to nothing.
    pub(crate) fn new(weights: &[f64]) -> Option<Self> {
        let mut sum = 0.0;
        let mut sums = Vec::with_capacity(weights.len());
        for weight in weights {
            if !weight.is_finite() || *weight < 0.0 {
                return None;
            }
            sum += weight;
            sums.push(sum);
        }
        (sum > 0.0 && sum.is_finite()).then_some(Self { sums })
    }

    /// The index of a value.
    pub(crate) fn choose(&self, draw: &mut Draw) -> u64 {
        let at = draw.unit() * self.sums.last().copied().unwrap_or(0.0);
        let index = self.sums.partition_point(|sum| *sum <= at);
        index.min(self.sums.len().saturating_sub(1)) as u64
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
            assert!(draw.zipf(10, 1.0) < 10);
            assert_eq!(draw.zipf(0, 1.0), 0);
            assert!((0.0..1.0).contains(&draw.unit()));
            draw.between(i64::MIN, i64::MAX);
        }
    }

    #[test]
    fn zipf_prefers_low_ranks() {
        let mut draw = Draw::new(1);
        let mut hits = [0u32; 100];
        for _ in 0..10_000 {
            hits[draw.zipf(100, 1.0) as usize] += 1;
        }
        assert!(
            hits[0] > 1000 && hits[0] > hits[9] * 4 && hits[9] > 0,
            "{hits:?}"
        );
    }

    #[test]
    fn a_steeper_exponent_prefers_low_ranks_more() {
        let share = |exponent| {
            let mut draw = Draw::new(3);
            let firsts = (0..10_000).filter(|_| draw.zipf(1_000, exponent) == 0);
            firsts.count()
        };
        let (flat, usual, steep) = (share(0.0), share(1.0), share(2.0));
        assert!(
            flat < 50 && flat < usual && usual < steep && steep > 4_000,
            "{flat} {usual} {steep}"
        );
    }

    #[test]
    fn weights_are_shares() {
        let shares = Shares::new(&[0.0, 9.0, 1.0]).expect("adds up");
        let mut draw = Draw::new(5);
        let mut hits = [0; 3];
        for _ in 0..10_000 {
            hits[shares.choose(&mut draw) as usize] += 1;
        }
        assert!(
            hits[0] == 0 && (8_700..9_300).contains(&hits[1]),
            "{hits:?}"
        );
        for bad in [&[][..], &[0.0], &[1.0, -1.0], &[f64::INFINITY]] {
            assert!(Shares::new(bad).is_none(), "{bad:?}");
        }
    }
}
