//! As much of MessagePack as `joined-deltas` and the calls from Python need.

pub fn array(n: usize, out: &mut Vec<u8>) {
    if n < 16 {
        out.push(0x90 | n as u8);
    } else {
        out.push(0xdd);
        out.extend_from_slice(&(n as u32).to_be_bytes());
    }
}

pub fn int(value: i64, out: &mut Vec<u8>) {
    if (0..128).contains(&value) {
        out.push(value as u8);
    } else {
        out.push(0xd3);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub fn text(value: &[u8], out: &mut Vec<u8>) {
    if value.len() < 32 {
        out.push(0xa0 | value.len() as u8);
    } else {
        out.push(0xdb);
        out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    }
    out.extend_from_slice(value);
}

pub fn binary(value: &[u8], out: &mut Vec<u8>) {
    if value.len() < 256 {
        out.extend_from_slice(&[0xc4, value.len() as u8]);
    } else {
        out.push(0xc6);
        out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    }
    out.extend_from_slice(value);
}

/// Reads values off the front; None where something else stands.
pub struct Unpacker<'a>(pub &'a [u8]);

impl<'a> Unpacker<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        if self.0.len() < n {
            return None;
        }
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn unsigned(&mut self, width: usize) -> Option<u64> {
        Some(self.take(width)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    pub fn array(&mut self) -> Option<usize> {
        match self.byte()? {
            head @ 0x90..=0x9f => Some(usize::from(head & 0x0f)),
            0xdc => Some(self.unsigned(2)? as usize),
            0xdd => Some(self.unsigned(4)? as usize),
            _ => None,
        }
    }

    pub fn int(&mut self) -> Option<i64> {
        match self.byte()? {
            head @ 0x00..=0x7f => Some(i64::from(head)),
            head @ 0xe0..=0xff => Some(i64::from(head as i8)),
            0xcc => Some(self.unsigned(1)? as i64),
            0xcd => Some(self.unsigned(2)? as i64),
            0xce => Some(self.unsigned(4)? as i64),
            0xcf => i64::try_from(self.unsigned(8)?).ok(),
            0xd0 => Some(i64::from(self.unsigned(1)? as i8)),
            0xd1 => Some(i64::from(self.unsigned(2)? as i16)),
            0xd2 => Some(i64::from(self.unsigned(4)? as i32)),
            0xd3 => Some(self.unsigned(8)? as i64),
            _ => None,
        }
    }

    pub fn text(&mut self) -> Option<&'a [u8]> {
        let n = match self.byte()? {
            head @ 0xa0..=0xbf => usize::from(head & 0x1f),
            0xd9 => self.unsigned(1)? as usize,
            0xda => self.unsigned(2)? as usize,
            0xdb => self.unsigned(4)? as usize,
            _ => return None,
        };
        let found = self.take(n)?;
        std::str::from_utf8(found).ok().map(str::as_bytes)
    }

    pub fn binary(&mut self) -> Option<&'a [u8]> {
        let n = match self.byte()? {
            0xc4 => self.unsigned(1)? as usize,
            0xc5 => self.unsigned(2)? as usize,
            0xc6 => self.unsigned(4)? as usize,
            _ => return None,
        };
        self.take(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (long, longer) = (vec![b'x'; 40], vec![7u8; 300]);
        let mut out = Vec::new();
        array(3, &mut out);
        array(70_000, &mut out);
        for value in [0, 127, 128, -1, i64::MIN, i64::MAX] {
            int(value, &mut out);
        }
        for value in [&b"m"[..], &long] {
            text(value, &mut out);
        }
        for value in [&b""[..], &longer] {
            binary(value, &mut out);
        }
        let mut read = Unpacker(&out);
        assert_eq!((read.array(), read.array()), (Some(3), Some(70_000)));
        for value in [0, 127, 128, -1, i64::MIN, i64::MAX] {
            assert_eq!(read.int(), Some(value));
        }
        assert_eq!((read.text(), read.text()), (Some(&b"m"[..]), Some(&long[..])));
        assert_eq!((read.binary(), read.binary()), (Some(&b""[..]), Some(&longer[..])));
        assert_eq!(read.byte(), None);
        assert_eq!(Unpacker(&[0xa2, b'x']).text(), None);
        assert_eq!(Unpacker(&[0xa1, 0xff]).text(), None);
    }
}
