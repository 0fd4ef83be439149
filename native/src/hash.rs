//! 128-bit hashes of ids and 64-bit hashes of payloads: folded multiplication over 8-byte words.
//!
//! An id's hash stands in for the id: with 128 bits, 10^9 live ids collide with a probability below 10^-20.

const K: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0x8cb9_2ba7_2f3d_8dd7, 0xaef1_7502_108e_f2d9];

#[inline(always)]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    let n = bytes.len();
    let four = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let one = |at: usize| u64::from(bytes[at]) << (8 * at);
    match n {
        8 => u64::from_le_bytes(bytes.try_into().unwrap()),
        // Parts that overlap say the same twice.
        4.. => four(0) | four(n - 4) << (8 * (n - 4)),
        1.. => one(0) | one(n / 2) | one(n - 1),
        0 => 0,
    }
}

#[inline(always)]
fn mix(mut state: u64, next: u64, odd: u64) -> u64 {
    // The addition keeps a word that happens to equal the state from wiping out what came before.
    state = state.rotate_left(29).wrapping_add(next);
    fold(state ^ K[0], odd | 1).wrapping_add(next.rotate_left(41))
}

fn lane(bytes: &[u8], seed: u64, odd: u64) -> u64 {
    let mut state = seed ^ (bytes.len() as u64).wrapping_mul(K[2]);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        state = mix(state, word(chunk), odd);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        state = mix(state, word(rest) ^ K[3], odd);
    }
    let state = fold(state ^ K[1], K[2] ^ seed);
    fold(state ^ (state >> 32), K[3] | 1)
}

/// For tables in memory only.
pub fn seeded(bytes: &[u8], seed: u64) -> u64 {
    lane(bytes, seed, K[1])
}

/// Identity of a prediction_id; never 0.
pub fn id(bytes: &[u8]) -> u128 {
    let both = (u128::from(lane(bytes, K[0], K[1])) << 64) | u128::from(lane(bytes, K[3], K[2]));
    both | u128::from(both == 0)
}

/// Hash of a record's bytes: tells a duplicate from a conflict.
pub fn payload(bytes: &[u8]) -> u64 {
    let mut lanes = [K[0], K[1], K[2], K[3]];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (state, chunk) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *state = mix(*state, word(chunk), K[1]);
        }
    }
    let tail = lane(blocks.remainder(), bytes.len() as u64, K[2]);
    lanes.iter().fold(tail, |state, lane| mix(state, *lane, K[3]))
}

/// Murmur2 as Java's producer hashes keys.
pub fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for chunk in &mut words {
        let mut k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut padded = [0; 4];
        padded[..rest.len()].copy_from_slice(rest);
        h = (h ^ u32::from_le_bytes(padded)).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_padded_with_zeros() {
        let bytes = [0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7, 0x08];
        for n in 0..=8 {
            let mut padded = [0; 8];
            padded[..n].copy_from_slice(&bytes[..n]);
            assert_eq!(word(&bytes[..n]), u64::from_le_bytes(padded));
        }
    }

    #[test]
    fn near_ids_differ_in_both_halves() {
        let mut highs = std::collections::HashSet::new();
        let mut lows = std::collections::HashSet::new();
        for i in 0..200_000 {
            let hash = id(format!("p{i:09}").as_bytes());
            assert!(highs.insert((hash >> 64) as u64));
            assert!(lows.insert(hash as u64));
        }
    }

    #[test]
    fn length_and_padding_count() {
        assert_ne!(id(b"a"), id(b"a\0"));
        assert_ne!(payload(b""), payload(b"\0"));
        assert_ne!(payload(&[0; 32]), payload(&[0; 64]));
    }

    #[test]
    fn keys_go_where_java_sends_them() {
        assert_eq!(murmur2(b"21") as i32, -973_932_308);
        assert_eq!(murmur2(b"") as i32, 275_646_681);
    }

    #[test]
    fn every_byte_of_a_payload_counts() {
        let base: Vec<u8> = (0..231u32).map(|i| (i * 7) as u8).collect();
        let hash = payload(&base);
        for at in 0..base.len() {
            let mut other = base.clone();
            other[at] ^= 1;
            assert_ne!(payload(&other), hash);
        }
    }
}
