//! Predictions and labels as they stand in their records; twin of `schemas/codec.py` for the ordinary ones.

use crate::json::{Odd, Read, Reader, Scalar};

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

fn once(seen: &mut u32, bit: u32) -> Read<()> {
    // The last of two members of one name would count: rare enough for the reference.
    if *seen & (1 << bit) != 0 {
        return Err(Odd);
    }
    *seen |= 1 << bit;
    Ok(())
}

/// Read a prediction; its features in the order they stand there, repeated ones included.
pub fn read_prediction<'a>(data: &'a [u8], features: &mut Features<'a>) -> Read<Prediction<'a>> {
    features.clear();
    let mut seen = 0;
    let mut p = Prediction {
        id: b"", model: b"", version: 0, event_ms: 0, prediction: Scalar::Null, probability: Probability::Missing,
        segment: None,
    };
    let mut reader = Reader::new(data);
    reader.object(|r, name| {
        match name {
            b"prediction_id" => {
                once(&mut seen, 0)?;
                p.id = r.text()?;
            }
            b"model" => {
                once(&mut seen, 1)?;
                p.model = r.text()?;
            }
            b"version" => {
                once(&mut seen, 2)?;
                p.version = r.int()?;
            }
            b"event_time_ms" => {
                once(&mut seen, 3)?;
                p.event_ms = r.int()?;
            }
            b"features" => {
                once(&mut seen, 4)?;
                r.object(|r, name| {
                    features.push((name, r.scalar()?));
                    Ok(())
                })?;
            }
            b"prediction" => {
                once(&mut seen, 5)?;
                p.prediction = r.scalar()?;
            }
            b"probability" => {
                once(&mut seen, 6)?;
                if r.is_null() {
                    r.scalar()?;
                } else if r.is_object() {
                    p.probability = Probability::ByClass(r.at);
                    r.object(|r, _| probability(r).map(|_| ()))?;
                } else {
                    p.probability = Probability::One(probability(r)?);
                }
            }
            b"segment" => {
                once(&mut seen, 7)?;
                if r.is_null() {
                    r.scalar()?;
                } else {
                    p.segment = Some(r.at);
                    r.object(|r, _| r.text().map(|_| ()))?;
                }
            }
            b"schema_version" => {
                once(&mut seen, 8)?;
                if r.int()? != 1 {
                    return Err(Odd);
                }
            }
            _ => r.skip(0)?,
        }
        Ok(())
    })?;
    reader.end()?;
    let whole = seen & 0x3f == 0x3f && !p.id.is_empty() && p.prediction != Scalar::Null;
    if whole && (0..LATEST_MS).contains(&p.event_ms) { Ok(p) } else { Err(Odd) }
}

pub fn read_label(data: &[u8]) -> Read<Label<'_>> {
    let mut seen = 0;
    let mut l = Label { id: b"", event_ms: 0, label: Scalar::Null, revision: 0 };
    let mut reader = Reader::new(data);
    reader.object(|r, name| {
        match name {
            b"prediction_id" => {
                once(&mut seen, 0)?;
                l.id = r.text()?;
            }
            b"event_time_ms" => {
                once(&mut seen, 1)?;
                l.event_ms = r.int()?;
            }
            b"label" => {
                once(&mut seen, 2)?;
                l.label = r.scalar()?;
            }
            b"revision" => {
                once(&mut seen, 3)?;
                l.revision = u16::try_from(r.int()?).map_err(|_| Odd)?;
            }
            b"schema_version" => {
                once(&mut seen, 4)?;
                if r.int()? != 1 {
                    return Err(Odd);
                }
            }
            _ => r.skip(0)?,
        }
        Ok(())
    })?;
    reader.end()?;
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

pub fn probability(reader: &mut Reader) -> Read<f64> {
    let value = match reader.number()? {
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
