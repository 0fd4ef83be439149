//! Columns of numbers counted at once: twin of `_numbers` in `streams/traffic.py`, which stays the definition.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;
use std::thread;

use crate::plan::{CLIP, TO_TAIL};

const LANES: usize = 8;
const BLOCK: usize = 1024;
/// Edges, and one more: as many as `_MOST_EDGES`.
const MOST: usize = 64;
/// What a thread has to have to do: starting one takes as long as counting 20,000 numbers.
const WORTH_A_THREAD: usize = 1 << 18;

/// What is counted beside the bins, behind them.
const LOW: usize = 0;
const HIGH: usize = 1;
const TOTAL: usize = 2;
const FIRST: usize = 3;
const LAST: usize = 4;
const MISSING: usize = 5;
const INVALID: usize = 6;
pub const REST: usize = 7;

/// A column as `streams/traffic.py` hands it over: `numbers` are low, high, mean, unit and the edges, `out` holds the
/// bins and `REST` more.
#[repr(C)]
pub struct Column {
    values: *const f64,
    n: usize,
    numbers: *const f64,
    len: usize,
    out: *mut i64,
    size: usize,
}

// Threads take whole columns: nobody else reads or writes what one points to meanwhile.
unsafe impl Sync for Column {}

/// Count columns, side by side where there are enough numbers. What is counted does not depend on the threads.
///
/// # Safety
/// Pointers hold as many items as is said; no two columns share an `out`.
pub unsafe fn count_all(columns: &[Column]) -> Option<()> {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| thread::available_parallelism().map_or(1, |cores| cores.get()));
    let numbers: usize = columns.iter().map(|column| column.n).sum();
    let helpers = cores.min(columns.len()).min(numbers / WORTH_A_THREAD).saturating_sub(1);
    let (next, bad) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(c) = columns.get(next.fetch_add(1, Ordering::Relaxed)) {
            let values = std::slice::from_raw_parts(c.values, c.n);
            let numbers = std::slice::from_raw_parts(c.numbers, c.len);
            if count(values, numbers, std::slice::from_raw_parts_mut(c.out, c.size)).is_none() {
                bad.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..helpers {
            // One that cannot be started leaves its columns to the others.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    (bad.into_inner() == 0).then_some(())
}

/// Count `values`; NaN is missing, infinity is no number.
pub fn count(values: &[f64], numbers: &[f64], out: &mut [i64]) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        return unsafe { wide(values, numbers, out) };
    }
    narrow(values, numbers, out)
}

/// The same code for processors that compare four numbers at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn wide(values: &[f64], numbers: &[f64], out: &mut [i64]) -> Option<()> {
    narrow(values, numbers, out)
}

#[inline(always)]
fn narrow(values: &[f64], numbers: &[f64], out: &mut [i64]) -> Option<()> {
    let (_, edges) = numbers.split_first_chunk::<4>()?;
    if out.len() != edges.len() + 1 + REST || edges.len() >= MOST {
        return None;
    }
    let (bins, rest) = out.split_at_mut(edges.len() + 1);
    let mut above = [0i64; MOST];
    let mut counted = 0;
    let mut finite = [0f64; BLOCK];
    for block in values.chunks(BLOCK) {
        let odd: u64 = block.iter().map(|value| u64::from(!value.is_finite())).sum();
        let mut good = block;
        if odd > 0 {
            let mut size = 0;
            for &value in block {
                finite[size] = value;
                size += usize::from(value.is_finite());
            }
            let missing = block.iter().filter(|value| value.is_nan()).count() as i64;
            rest[MISSING] += missing;
            rest[INVALID] += odd as i64 - missing;
            good = &finite[..size];
        }
        counted += good.len() as i64;
        // Every edge over a whole block: several times as fast as looking for the bin of every number.
        for (&edge, above) in edges.iter().zip(&mut above) {
            *above += good.iter().map(|&value| i64::from(value >= edge)).sum::<i64>();
        }
        sums(good, numbers, rest);
    }
    for (bin, count) in bins.iter_mut().enumerate() {
        *count += if bin == 0 { counted } else { above[bin - 1] } - above[bin];
    }
    Some(())
}

/// What lies out of range, the sum of all and those of the outer bins; without an edge they are one bin.
#[inline(always)]
fn sums(values: &[f64], numbers: &[f64], rest: &mut [i64]) {
    let (low, high, mean, unit) = (numbers[0], numbers[1], numbers[2], numbers[3]);
    let begin = numbers.get(4).copied().unwrap_or(f64::INFINITY);
    let end = numbers[4..].last().copied().unwrap_or(f64::NEG_INFINITY);
    rest[LOW] += values.iter().map(|&value| i64::from(value < low)).sum::<i64>();
    rest[HIGH] += values.iter().map(|&value| i64::from(value > high)).sum::<i64>();
    // Sums side by side, as the processor adds them: of whole numbers, so the order does not matter.
    let (mut total, mut first, mut last) = ([0f64; LANES], [0f64; LANES], [0f64; LANES]);
    let mut add = |lane: usize, value: f64| {
        let standard = ((value - mean) * unit).clamp(-CLIP, CLIP);
        let tail = whole(standard * TO_TAIL);
        total[lane] += whole(standard);
        first[lane] += if value < begin { tail } else { 0.0 };
        last[lane] += if value >= end { tail } else { 0.0 };
    };
    let lanes = values.chunks_exact(LANES);
    for (lane, &value) in lanes.remainder().iter().enumerate() {
        add(lane, value);
    }
    for some in lanes {
        for (lane, &value) in some.iter().enumerate() {
            add(lane, value);
        }
    }
    for (at, sums) in [(TOTAL, total), (FIRST, first), (LAST, last)] {
        rest[at] += sums.iter().sum::<f64>() as i64;
    }
}

/// As `rounded`, still as a float.
#[inline(always)]
fn whole(value: f64) -> f64 {
    const SHIFT: f64 = (3u64 << 51) as f64;
    (value + SHIFT) - SHIFT
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
