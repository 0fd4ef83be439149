//! What a label adds to the counters of its prediction's panes; twin of `PanePlan.accepts` and `PanePlan.labelled`.

use crate::json::{Odd, Read, Scalar};
use crate::plan::{bisect_right, rounded, Plan, Task};

const FINE: f64 = (1u64 << 20) as f64;
const COARSE: f64 = 65536.0;
const SMALLEST_PROBABILITY: f64 = 1.0 / (1u64 << 52) as f64;
const LIMB_BITS: u32 = 32;
const LIMB: i64 = (1 << LIMB_BITS) - 1;
const MOST_APE: f64 = 4096.0;

/// Counters and by how much each changes; positions may repeat.
pub type Contribution = Vec<(u32, i64)>;

/// What a label says to the model it is of.
#[derive(Clone, Copy)]
pub enum Truth {
    Class(u32),
    Value(f64),
}

/// What is remembered of the prediction.
pub struct Told<'a> {
    pub predicted: u32,
    /// NaN: none.
    pub score: f64,
    /// By class, where the prediction carried them.
    pub probabilities: &'a [f64],
}

/// What the label says; an error where the model may not take it.
pub fn truth_of(plan: &Plan, label: Scalar) -> Read<Truth> {
    if plan.task == Task::Regression {
        return match label {
            Scalar::Int(value) => Ok(Truth::Value(value as f64)),
            Scalar::Float(value) => Ok(Truth::Value(value)),
            _ => Err(Odd),
        };
    }
    let class = plan.class_of(label).ok_or(Odd)?;
    match plan.task {
        Task::Binary if class >= plan.classes => if plan.any_label { Ok(Truth::Class(0)) } else { Err(Odd) },
        _ => Ok(Truth::Class(class)),
    }
}

/// Contribution of a label that came `delay_ms` after its prediction, for every segment of it.
pub fn contribution(plan: &Plan, told: &Told, truth: Truth, delay_ms: i64, out: &mut Contribution) {
    let at = &plan.at;
    let delay_s = delay_ms.max(0) / 1000;
    out.clear();
    out.push((at.labelled, 1));
    out.push((at.delay + delay_bin(delay_s as u64).min(plan.delay_bins - 1), 1));
    out.push((at.delay_total, delay_s));
    match (plan.task, truth) {
        (Task::Regression, Truth::Value(label)) => regression(plan, told, label, out),
        (Task::Binary, Truth::Class(truth)) => binary(plan, told, truth, out),
        (Task::Multiclass, Truth::Class(truth)) => multiclass(plan, told, truth, out),
        _ => unreachable!("`truth_of` gives what fits the task"),
    }
}

fn binary(plan: &Plan, told: &Told, truth: u32, out: &mut Contribution) {
    let (at, score) = (&plan.at, told.score);
    out.push((at.confusion + truth * 3 + told.predicted, 1));
    if score.is_nan() {
        return;
    }
    let hit = truth == 1;
    out.push((if hit { at.positives } else { at.negatives } + plan.score_bin(score), 1));
    confidence(plan, score, hit, out);
    let miss = f64::from(u8::from(hit)) - score;
    out.push((at.brier, fixed(miss * miss)));
    out.push((at.scored, 1));
    out.push((at.log_loss, surprise(if hit { score } else { 1.0 - score })));
}

fn multiclass(plan: &Plan, told: &Told, truth: u32, out: &mut Contribution) {
    let at = &plan.at;
    out.push((at.truth + truth, 1));
    out.push((at.decided + told.predicted, 1));
    let hit = truth == told.predicted && truth < plan.classes;
    if hit {
        out.push((at.hits + truth, 1));
    }
    if !told.score.is_nan() {
        confidence(plan, told.score, hit, out);
    }
    if told.probabilities.is_empty() {
        return;
    }
    out.push((at.scored, 1));
    let known = told.probabilities.get(truth as usize).copied();
    let of_truth = known.unwrap_or(0.0);
    out.push((at.log_loss, surprise(of_truth)));
    let one = FINE as i64;
    let mut squares = if known.is_some() { 0 } else { one * one };
    let mut rank = 0;
    for (class, &value) in (0..).zip(told.probabilities) {
        let miss = fixed(value) - if class == truth { one } else { 0 };
        squares += miss * miss;
        rank += u32::from(value > of_truth || (value == of_truth && class > truth));
    }
    out.push((at.brier, (squares + one / 2) / one));
    if known.is_some() {
        out.push((at.ranks + rank, 1));
    }
}

fn regression(plan: &Plan, told: &Told, label: f64, out: &mut Contribution) {
    let at = &plan.at;
    out.push((at.labels + bisect_right(&plan.label_edges, label), 1));
    if told.score.is_nan() {
        return;
    }
    out.push((at.scored, 1));
    let miss = told.score - label;
    let error = limb(miss / plan.error_scale * COARSE);
    let value = limb((label - plan.label_mean) / plan.label_std * FINE);
    if error.abs() == LIMB || value.abs() == LIMB {
        out.push((at.clipped, 1));
    }
    out.push((at.error, error));
    out.push((at.error_abs, error.abs()));
    let bin = bisect_right(&plan.edges, told.score);
    out.push((at.bin_scored + bin, 1));
    out.push((at.bin_error_abs + bin, error.abs()));
    square(at.error_square_high, at.error_square_low, error, out);
    out.push((at.label_total, value));
    square(at.label_square_high, at.label_square_low, value, out);
    if label != 0.0 {
        out.push((at.ape, fixed((miss / label).abs().min(MOST_APE))));
        out.push((at.ape_n, 1));
    }
}

fn confidence(plan: &Plan, score: f64, hit: bool, out: &mut Contribution) {
    let at = &plan.at;
    let bin = ((score * f64::from(plan.calibration_bins)) as u32).min(plan.calibration_bins - 1);
    out.push((at.calibration_n + bin, 1));
    if hit {
        out.push((at.calibration_hits + bin, 1));
    }
    out.push((at.calibration_total + bin, fixed(score)));
}

fn square(high: u32, low: u32, value: i64, out: &mut Contribution) {
    let squared = value.unsigned_abs() * value.unsigned_abs();
    out.push((high, (squared >> LIMB_BITS) as i64));
    out.push((low, (squared & LIMB as u64) as i64));
}

/// A scaled number as an integer, cut to what a limb holds.
fn limb(scaled: f64) -> i64 {
    if -LIMB as f64 >= scaled {
        -LIMB
    } else if scaled >= LIMB as f64 {
        LIMB
    } else {
        rounded(scaled)
    }
}

fn fixed(value: f64) -> i64 {
    rounded(value * FINE)
}

/// Loss of the probability that was given to the truth.
fn surprise(probability: f64) -> i64 {
    fixed(-probability.max(SMALLEST_PROBABILITY).ln())
}

/// Whole seconds below 16 have bins of their own, then eight an octave (`streams/metrics/delay.py`).
fn delay_bin(delay_s: u64) -> u32 {
    let length = 64 - delay_s.leading_zeros();
    let shift = length.saturating_sub(4);
    8 * shift + (delay_s >> shift) as u32
}
