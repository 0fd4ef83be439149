//! Predictions and labels as they stand in their records; twin of `schemas/codec.py` for the ordinary ones.

use crate::json::{Odd, Read, Reader, Scalar};
use crate::shape::{Names, Shape, OTHER};

/// No event time is as late (`schemas/codec.py`).
const LATEST_MS: i64 = 253_402_300_800_000;

pub type Features<'a> = Vec<(&'a [u8], Scalar<'a>)>;

pub struct Prediction<'a> {
    pub id: &'a [u8],
    pub model: &'a [u8],
    pub version: i64,
    pub event_ms: i64,
    pub prediction: Scalar<'a>,
    pub probability: Probability,
    /// Where the object stands.
    pub segment: Option<usize>,
}

#[derive(Clone, Copy)]
pub enum Probability {
    Missing,
    One(f64),
    /// Where the object of probabilities by class stands.
    ByClass(usize),
}

pub struct Label<'a> {
    pub id: &'a [u8],
    pub event_ms: i64,
    pub label: Scalar<'a>,
    pub revision: u16,
}

/// What predictions and labels looked like so far.
#[derive(Default)]
pub struct Shapes {
    prediction: Shape,
    features: Shape,
    label: Shape,
}

const PREDICTION: &Names = &[
    b"prediction_id", b"model", b"version", b"event_time_ms", b"features", b"prediction", b"probability", b"segment",
    b"schema_version",
];
const LABEL: &Names = &[b"prediction_id", b"event_time_ms", b"label", b"revision", b"schema_version"];

/// Marks a member as seen. The last of two of one name would count: rare enough for the reference.
#[inline(always)]
fn once(seen: &mut u32, number: u8) -> Read<()> {
    let bit = 1 << number;
    if *seen & bit != 0 {
        return Err(Odd);
    }
    *seen |= bit;
    Ok(())
}

/// Read a prediction; its features in the order they stand there, repeated ones included.
pub fn read_prediction<'a>(data: &'a [u8], shapes: &mut Shapes, features: &mut Features<'a>) -> Read<Prediction<'a>> {
    features.clear();
    let mut seen = 0;
    let mut p = Prediction {
        id: b"", model: b"", version: 0, event_ms: 0, prediction: Scalar::Null, probability: Probability::Missing,
        segment: None,
    };
    // No closures here: the reader would have to stand in memory.
    let mut r = Reader::new(data);
    for index in 0.. {
        let Some((_, number)) = shapes.prediction.member(&mut r, index, PREDICTION)? else { break };
        if number == OTHER {
            r.skip()?;
            continue;
        }
        once(&mut seen, number)?;
        match number {
            0 => p.id = r.text()?,
            1 => p.model = r.text()?,
            2 => p.version = r.int()?,
            3 => p.event_ms = r.int()?,
            4 => {
                while let Some((name, _)) = shapes.features.member(&mut r, features.len(), &[])? {
                    features.push((name, r.scalar()?));
                }
            }
            5 => p.prediction = r.scalar()?,
            6 if r.is_object() => {
                p.probability = Probability::ByClass(r.at);
                let mut more = r.enter()?;
                while more {
                    r.name()?;
                    probability(&r.number()?)?;
                    more = r.more()?;
                }
            }
            6 => match r.scalar()? {
                Scalar::Null => {}
                value => p.probability = Probability::One(probability(&value)?),
            },
            7 if r.is_object() => {
                p.segment = Some(r.at);
                let mut more = r.enter()?;
                while more {
                    r.name()?;
                    r.text()?;
                    more = r.more()?;
                }
            }
            7 => if r.scalar()? != Scalar::Null {
                return Err(Odd);
            },
            _ => if r.int()? != 1 {
                return Err(Odd);
            },
        }
    }
    r.end()?;
    let whole = seen & 0x3f == 0x3f && !p.id.is_empty() && p.prediction != Scalar::Null;
    if whole && (0..LATEST_MS).contains(&p.event_ms) { Ok(p) } else { Err(Odd) }
}

pub fn read_label<'a>(data: &'a [u8], shapes: &mut Shapes) -> Read<Label<'a>> {
    let mut seen = 0;
    let mut l = Label { id: b"", event_ms: 0, label: Scalar::Null, revision: 0 };
    let mut r = Reader::new(data);
    for index in 0.. {
        let Some((_, number)) = shapes.label.member(&mut r, index, LABEL)? else { break };
        if number == OTHER {
            r.skip()?;
            continue;
        }
        once(&mut seen, number)?;
        match number {
            0 => l.id = r.text()?,
            1 => l.event_ms = r.int()?,
            2 => l.label = r.scalar()?,
            3 => l.revision = u16::try_from(r.int()?).map_err(|_| Odd)?,
            _ => if r.int()? != 1 {
                return Err(Odd);
            },
        }
    }
    r.end()?;
    let whole = seen & 7 == 7 && !l.id.is_empty() && l.label != Scalar::Null;
    if whole && (0..LATEST_MS).contains(&l.event_ms) { Ok(l) } else { Err(Odd) }
}

/// The object that stands at `at`, which was read before.
pub fn object_at<'a>(
    data: &'a [u8], at: usize, member: impl FnMut(&mut Reader<'a>, &'a [u8]) -> Read<()>,
) -> Read<()> {
    let mut reader = Reader::new(data);
    reader.at = at;
    reader.object(member)
}

/// A number that is a probability.
#[inline(always)]
pub fn probability(value: &Scalar) -> Read<f64> {
    let value = match *value {
        Scalar::Int(value) => value as f64,
        Scalar::Float(value) => value,
        _ => return Err(Odd),
    };
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(Odd) }
}

pub fn as_number(value: Scalar) -> Option<f64> {
    match value {
        Scalar::Int(value) => Some(value as f64),
        Scalar::Float(value) => Some(value),
        Scalar::Bool(value) => Some(f64::from(u8::from(value))),
        _ => None,
    }
}
