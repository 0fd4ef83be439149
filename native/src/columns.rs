//! A column of numbers counted at once: twin of `_numbers` in `streams/traffic.py`, which stays the definition.

use crate::plan::{CLIP, TO_TAIL};

const CELLS: usize = 512;
const LANES: usize = 4;
const BLOCK: usize = 1024;
/// Edges, and one that no number reaches.
const MOST: usize = 64;

/// What is counted beside the bins, behind them.
const LOW: usize = 0;
const HIGH: usize = 1;
const TOTAL: usize = 2;
const FIRST: usize = 3;
const LAST: usize = 4;
pub const REST: usize = 5;

/// As `rounded`, still as a float.
#[inline(always)]
fn whole(value: f64) -> f64 {
    const SHIFT: f64 = (3u64 << 51) as f64;
    (value + SHIFT) - SHIFT
}

/// Count finite `values`; `numbers` are low, high, mean, unit and the edges, `out` holds the bins and `REST` more.
pub fn count(values: &[f64], numbers: &[f64], out: &mut [i64]) -> Option<()> {
    let (&[low, high, mean, unit], edges) = numbers.split_first_chunk()?;
    if out.len() != edges.len() + 1 + REST || edges.len() >= MOST {
        return None;
    }
    let (bins, rest) = out.split_at_mut(edges.len() + 1);
    let (begin, end) = (edges.first().copied().unwrap_or(0.0), edges.last().copied().unwrap_or(0.0));
    let scale = CELLS as f64 / (end - begin);
    // Ascending in the value, so an edge of an earlier cell lies below every value of a later one.
    let cell = |value: f64| (((value - begin) * scale) as i64).clamp(0, CELLS as i64 - 1) as usize;
    let mut starts = [0u32; CELLS];
    let mut filled = 0;
    for (at, start) in starts.iter_mut().enumerate() {
        while filled < edges.len() && cell(edges[filled]) < at {
            filled += 1;
        }
        *start = filled as u32;
    }
    let mut above = [f64::INFINITY; MOST];
    above.get_mut(..edges.len())?.copy_from_slice(edges);
    let mut tails = [0f64; MOST];
    for block in values.chunks(BLOCK) {
        // Four sums side by side, as the processor adds them: of whole numbers, so the order does not matter.
        let (mut total, mut below, mut beyond) = ([0f64; LANES], [0i64; LANES], [0i64; LANES]);
        let lanes = block.chunks_exact(LANES);
        for (lane, &value) in lanes.remainder().iter().enumerate() {
            total[lane] += whole(((value - mean) * unit).clamp(-CLIP, CLIP));
            below[lane] += i64::from(value < low);
            beyond[lane] += i64::from(value > high);
        }
        for four in lanes {
            for lane in 0..LANES {
                total[lane] += whole(((four[lane] - mean) * unit).clamp(-CLIP, CLIP));
                below[lane] += i64::from(four[lane] < low);
                beyond[lane] += i64::from(four[lane] > high);
            }
        }
        rest[TOTAL] += total.iter().sum::<f64>() as i64;
        rest[LOW] += below.iter().sum::<i64>();
        rest[HIGH] += beyond.iter().sum::<i64>();
        for &value in block {
            let mut bin = starts[cell(value)] as usize;
            bin += usize::from(above[bin] <= value);
            while above[bin] <= value {
                bin += 1;
            }
            bins[bin] += 1;
            // Of all bins, though two are asked for: cheaper than asking which it is.
            tails[bin] += whole(((value - mean) * unit).clamp(-CLIP, CLIP) * TO_TAIL);
        }
    }
    rest[FIRST] += tails[0] as i64;
    rest[LAST] += tails[edges.len()] as i64;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::bisect_right;

    #[test]
    fn every_value_is_in_its_bin() {
        let edges = [-1.0, -0.999, -0.5, 0.0, 0.25, 0.2500001, 3.0, 900.0];
        let numbers: Vec<f64> = [-2.0, 1000.0, 0.5, 65536.0].into_iter().chain(edges).collect();
        let mut state = 7u64;
        for n in 0..200_000u64 {
            state = crate::hash::fold(state ^ n, 0x9e37_79b9_7f4a_7c15);
            let value = if n % 5 == 0 { edges[(n / 5 % 8) as usize] } else { (state as i64 as f64) / (1u64 << 53) as f64 };
            let mut out = [0; 9 + REST];
            count(&[value], &numbers, &mut out).unwrap();
            let bin = bisect_right(&edges, value) as usize;
            assert!(out[bin] == 1 && out[..9].iter().sum::<i64>() == 1, "{value}");
        }
    }
}
