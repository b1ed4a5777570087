//! The hash that decides where a key lives on disk, and the buckets it gives.
//!
//! Invariant: the hash of given bytes never changes; another function would be another `HASH_VERSION`, which runs name.

/// Which function this is; runs written under another one are not read as if they were of this one.
pub const HASH_VERSION: u8 = 1;

/// Into how many buckets the keys of a state table fall.
pub const BUCKETS: u8 = 64;

/// XXH64 with seed zero, as its specification defines it.
pub fn hash(bytes: &[u8]) -> u64 {
    const P1: u64 = 0x9E37_79B1_85EB_CA87;
    const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
    const P3: u64 = 0x1656_67B1_9E37_79F9;
    const P4: u64 = 0x85EB_CA77_C2B2_AE63;
    const P5: u64 = 0x27D4_EB2F_1656_67C5;
    let round = |lane: u64, word: u64| {
        lane.wrapping_add(word.wrapping_mul(P2))
            .rotate_left(31)
            .wrapping_mul(P1)
    };
    let (stripes, mut rest) = bytes.as_chunks::<32>();
    let mut state = if stripes.is_empty() {
        P5
    } else {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0_u64.wrapping_sub(P1)];
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let [a, b, c, d] = lanes;
        let mixed = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes.iter().fold(mixed, |state, lane| {
            (state ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4)
        })
    };
    state = state.wrapping_add(bytes.len() as u64);
    let (words, tail) = rest.as_chunks::<8>();
    for word in words {
        state ^= round(0, u64::from_le_bytes(*word));
        state = state.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    rest = tail;
    if let Some((half, tail)) = rest.split_first_chunk::<4>() {
        state ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
        state = state.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = tail;
    }
    for byte in rest {
        state ^= u64::from(*byte).wrapping_mul(P5);
        state = state.rotate_left(11).wrapping_mul(P1);
    }
    state = (state ^ state >> 33).wrapping_mul(P2);
    state = (state ^ state >> 29).wrapping_mul(P3);
    state ^ state >> 32
}

/// The bucket of an encoded key.
pub fn bucket(key: &[u8]) -> u8 {
    // The upper bits: they depend on every byte of the key.
    (hash(key) >> 58) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that the specification's authors publish; a change of the function on disk shows here.
    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(hash(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hash(b"abc"), 0x44BC_2CF5_AD77_0999);
        // Longer than a stripe, with a tail of every size.
        let long = b"Call me Ishmael. Some years ago--never mind how long precisely-";
        assert_eq!(hash(long), 0x02A2_E854_70D6_FD96);
    }

    #[test]
    fn buckets_are_within_their_number_and_all_used() {
        let mut seen = [0_u32; BUCKETS as usize];
        for number in 0..10_000_u32 {
            seen[usize::from(bucket(&number.to_be_bytes()))] += 1;
        }
        assert!(
            seen.iter().all(|count| (90..240).contains(count)),
            "{seen:?}"
        );
    }
}
