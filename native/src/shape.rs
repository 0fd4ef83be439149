//! Members of records mostly come in one order, spelled one way: what stood before each value is remembered, and where
//! the same bytes stand there again, they mean the same without being read.

use crate::json::{Read, Reader};

/// Names that a reader looks for, by their number; any other is `OTHER`.
pub type Names = [&'static [u8]];
pub const OTHER: u8 = u8::MAX;
/// A member's name and its number.
type Member<'a> = (&'a [u8], u8);

const LEAST: usize = 4;
const MOST: usize = 24;
/// Members by position beyond are always read.
const MOST_MEMBERS: usize = 512;

/// All that stood between the start of an object (or the value before) and a member's value.
#[derive(Clone, Copy, Default)]
struct Lead {
    /// First, middle and last eight bytes, or first and last four.
    words: [u64; 3],
    /// 0: not known, or too long.
    length: u8,
    name_at: u8,
    name_length: u8,
    number: u8,
}

fn words_of(bytes: &[u8]) -> [u64; 3] {
    let n = bytes.len();
    if n >= 8 {
        let eight = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        [eight(0), eight((n - 8).min(8)), eight(n - 8)]
    } else {
        let four = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
        [four(0), 0, four(n - 4)]
    }
}

/// What the objects read so far looked like, member by member.
#[derive(Default)]
pub struct Shape {
    leads: Vec<Lead>,
}

impl Shape {
    /// Step to the value of member `index` of an object: its name and the name's number. None: the object has ended.
    #[inline(always)]
    pub fn member<'a>(&mut self, reader: &mut Reader<'a>, index: usize, names: &Names) -> Read<Option<Member<'a>>> {
        if let Some(lead) = self.leads.get(index) {
            let length = usize::from(lead.length);
            if let Some(bytes) = reader.ahead(length).filter(|bytes| length != 0 && words_of(bytes) == lead.words) {
                reader.at += length;
                let (at, end) = (usize::from(lead.name_at), usize::from(lead.name_at) + usize::from(lead.name_length));
                return Ok(Some((&bytes[at..end], lead.number)));
            }
        }
        let (found, at) = self.read(*reader, index, names)?;
        reader.at = at;
        Ok(found)
    }

    /// As `member`, by reading; what is found is remembered.
    #[inline(never)]
    fn read<'a>(
        &mut self, mut reader: Reader<'a>, index: usize, names: &Names,
    ) -> Read<(Option<Member<'a>>, usize)> {
        let from = reader;
        let another = if index == 0 { reader.enter()? } else { reader.more()? };
        if !another {
            return Ok((None, reader.at));
        }
        reader.space();
        let name_at = reader.at + 1 - from.at;
        let name = reader.name()?;
        reader.space();
        let number = names.iter().position(|known| *known == name).map_or(OTHER, |number| number as u8);
        let length = reader.at - from.at;
        if index < MOST_MEMBERS {
            if self.leads.len() <= index {
                self.leads.resize(index + 1, Lead::default());
            }
            self.leads[index] = match from.ahead(length) {
                Some(bytes) if (LEAST..=MOST).contains(&length) => Lead {
                    words: words_of(bytes), length: length as u8, name_at: name_at as u8, name_length: name.len() as u8, number,
                },
                _ => Lead::default(),
            };
        }
        Ok((Some((name, number)), reader.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &Names = &[b"a", b"longer_name"];

    fn members(shape: &mut Shape, text: &str) -> Option<Vec<(String, u8, usize)>> {
        let mut reader = Reader::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some((name, number)) = shape.member(&mut reader, found.len(), NAMES).ok()? {
            found.push((String::from_utf8(name.into()).unwrap(), number, reader.at));
            reader.skip().ok()?;
        }
        reader.end().ok()?;
        Some(found)
    }

    #[test]
    fn what_is_remembered_reads_as_what_is_read() {
        let texts = [
            r#"{"a":1,"longer_name":"x","b":{"c":[1]}}"#,
            r#"{"a":2,"longer_name":"yyyyyyy","b":{}}"#,
            r#"{ "a" : 2 , "longer_name" : 1 }"#,
            r#"{"longer_name":1,"a":2}"#,
            r#"{"a":1,"longer_names":1}"#,
            r#"{"a":1,"longer_namf":1,"a name that is longer than what is remembered":2}"#,
            r#"{}"#, r#"{"":1}"#, r#"{"a":1}"#, r#"{"a":1"#, r#"{"a":1,}"#, r#"{"a":1 "b":2}"#, r#"{,"a":1}"#, r#""#, r#"{"é":1,"é":2}"#,
        ];
        let mut kept = Shape::default();
        for first in texts {
            for second in texts {
                members(&mut kept, first);
                assert_eq!(members(&mut kept, second), members(&mut Shape::default(), second), "{first} {second}");
            }
        }
    }
}
