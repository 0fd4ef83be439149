//! A strict reader of the ordinary shapes of JSON. Whatever it does not know well (escapes, integers beyond 2^53, deep
//! nesting, odd numbers) is an `Err`: the caller leaves the record to the reference implementation, which decides.
//!
//! Where a reader stands has to stay in a register: everything that is not inlined takes and gives that by value.

pub struct Odd;
pub type Read<T> = Result<T, Odd>;

/// A scalar of JSON as the rules need it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    /// Exactly representable as a double.
    Int(i64),
    Float(f64),
    Text(&'a [u8]),
}

#[derive(Clone, Copy)]
pub struct Reader<'a> {
    data: &'a [u8],
    pub at: usize,
}

const EXACT_INT: u64 = 1 << 53;
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
const MOST_DEPTH: u32 = 32;

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Reader { data, at: 0 }
    }

    #[inline(always)]
    fn peek(&self) -> u8 {
        // 0 is no byte of valid JSON outside of strings, so it can stand for the end.
        self.data.get(self.at).copied().unwrap_or(0)
    }

    /// The next bytes, if there are so many.
    #[inline(always)]
    pub fn ahead(&self, length: usize) -> Option<&'a [u8]> {
        self.data.get(self.at..)?.get(..length)
    }

    #[inline(always)]
    pub fn space(&mut self) {
        while self.peek() <= b' ' && matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    #[inline(always)]
    pub fn expect(&mut self, byte: u8) -> Read<()> {
        self.space();
        self.take(byte).then_some(()).ok_or(Odd)
    }

    #[inline(always)]
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    /// Nothing but white space is left.
    #[inline(always)]
    pub fn end(&mut self) -> Read<()> {
        self.space();
        if self.at == self.data.len() { Ok(()) } else { Err(Odd) }
    }

    /// A string without escapes, valid UTF-8.
    #[inline(always)]
    pub fn text(&mut self) -> Read<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        let mut high = 0;
        let mut end = start;
        // Eight bytes at a time: most names and values end within two steps.
        let end = loop {
            let Some(word) = word_at(self.data, end) else {
                let (end, last) = text_end(self.data, end)?;
                high |= u64::from(last);
                break end;
            };
            let stops = zeros(word ^ (EACH * u64::from(b'"'))) | zeros(word ^ (EACH * u64::from(b'\\'))) | below_space(word);
            if stops == 0 {
                high |= word;
                end += 8;
                continue;
            }
            // The lowest is exact; those above it may be the carry's.
            let length = stops.trailing_zeros() / 8;
            high |= word & ((1 << (8 * length)) - 1);
            break end + length as usize;
        };
        if self.data[end] != b'"' {
            return Err(Odd);
        }
        self.at = end + 1;
        let text = &self.data[start..end];
        if high & (EACH * 0x80) != 0 && std::str::from_utf8(text).is_err() {
            return Err(Odd);
        }
        Ok(text)
    }

    /// Digits from here on, as one more part of a number.
    #[inline(always)]
    fn digits(&mut self, mut mantissa: u64) -> u64 {
        while let Some(word) = word_at(self.data, self.at).filter(|word| all_digits(*word)) {
            mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight_digits(word));
            self.at += 8;
        }
        while let digit @ b'0'..=b'9' = self.peek() {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        mantissa
    }

    #[inline(always)]
    pub fn int(&mut self) -> Read<i64> {
        match self.number()? {
            Scalar::Int(value) => Ok(value),
            _ => Err(Odd),
        }
    }

    /// A number: `Int` where it is written as one, else `Float`; both exact.
    #[inline(always)]
    pub fn number(&mut self) -> Read<Scalar<'static>> {
        self.space();
        let start = self.at;
        let negative = self.take(b'-');
        let first = self.at;
        let mut mantissa = self.digits(0);
        let mut digits = self.at - first;
        if digits == 0 || (digits > 1 && self.data[first] == b'0') {
            return Err(Odd);
        }
        let mut exponent = 0i32;
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            let begin = self.at;
            mantissa = self.digits(mantissa);
            let decimals = self.at - begin;
            if decimals == 0 {
                return Err(Odd);
            }
            digits += decimals;
            exponent = -(decimals.min(1 << 20) as i32);
        }
        if matches!(self.peek(), b'e' | b'E') {
            whole = false;
            self.at += 1;
            let down = match self.peek() {
                sign @ (b'+' | b'-') => {
                    self.at += 1;
                    sign == b'-'
                }
                _ => false,
            };
            let begin = self.at;
            let mut power = 0i32;
            while let digit @ b'0'..=b'9' = self.peek() {
                power = power.saturating_mul(10).saturating_add(i32::from(digit - b'0'));
                self.at += 1;
            }
            if self.at == begin || power > 400 {
                return Err(Odd);
            }
            exponent += if down { -power } else { power };
        }
        if whole {
            if digits > 16 || mantissa > EXACT_INT || (negative && mantissa == 0) {
                return Err(Odd);
            }
            return Ok(Scalar::Int(if negative { -(mantissa as i64) } else { mantissa as i64 }));
        }
        // Where mantissa and power of ten are exact, one operation rounds once: the result is the nearest double.
        let value = if digits <= 15 && (-22..=22).contains(&exponent) {
            let value = mantissa as f64;
            let value = if exponent < 0 { value / POWERS[-exponent as usize] } else { value * POWERS[exponent as usize] };
            if negative { -value } else { value }
        } else {
            nearest(&self.data[start..self.at])?
        };
        if value.is_finite() { Ok(Scalar::Float(value)) } else { Err(Odd) }
    }

    #[inline(always)]
    pub fn scalar(&mut self) -> Read<Scalar<'a>> {
        self.space();
        match self.peek() {
            b'"' => Ok(Scalar::Text(self.text()?)),
            b'n' => self.word(b"null", Scalar::Null),
            b't' => self.word(b"true", Scalar::Bool(true)),
            b'f' => self.word(b"false", Scalar::Bool(false)),
            _ => self.number(),
        }
    }

    #[inline(always)]
    fn word(&mut self, word: &[u8], value: Scalar<'a>) -> Read<Scalar<'a>> {
        if self.data[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(Odd)
        }
    }

    /// Enter an object; whether it has a member.
    #[inline(always)]
    pub fn enter(&mut self) -> Read<bool> {
        self.expect(b'{')?;
        self.space();
        Ok(!self.take(b'}'))
    }

    /// Name of the member that begins here; its value is next.
    #[inline(always)]
    pub fn name(&mut self) -> Read<&'a [u8]> {
        let name = self.text()?;
        self.expect(b':')?;
        Ok(name)
    }

    /// Behind a member's value: whether another follows, or else the object ends.
    #[inline(always)]
    pub fn more(&mut self) -> Read<bool> {
        self.space();
        if self.take(b',') {
            return Ok(true);
        }
        if self.take(b'}') { Ok(false) } else { Err(Odd) }
    }

    /// Call `member` at every member of an object; it has to read the value. Slower than the three above.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Read<()>) -> Read<()> {
        let mut more = self.enter()?;
        while more {
            let name = self.name()?;
            member(self, name)?;
            more = self.more()?;
        }
        Ok(())
    }

    /// The next value starts an object.
    #[inline(always)]
    pub fn is_object(&mut self) -> bool {
        self.space();
        self.peek() == b'{'
    }

    /// Step over a value that nobody wants, checking it all the same.
    #[inline(always)]
    pub fn skip(&mut self) -> Read<()> {
        self.at = skipped(self.data, self.at, 0)?;
        Ok(())
    }
}

fn skipped(data: &[u8], at: usize, depth: u32) -> Read<usize> {
    let mut reader = Reader { data, at };
    reader.space();
    match reader.peek() {
        b'{' if depth < MOST_DEPTH => reader.object(|reader, _| {
            reader.at = skipped(data, reader.at, depth + 1)?;
            Ok(())
        })?,
        b'[' if depth < MOST_DEPTH => {
            reader.at += 1;
            reader.space();
            if reader.take(b']') {
                return Ok(reader.at);
            }
            loop {
                reader.at = skipped(data, reader.at, depth + 1)?;
                reader.space();
                if !reader.take(b',') {
                    reader.expect(b']')?;
                    break;
                }
            }
        }
        b'{' | b'[' => return Err(Odd),
        _ => reader.scalar().map(|_| ())?,
    }
    Ok(reader.at)
}

/// Where the string ends that goes on within the last bytes of all, and its bytes laid over each other.
#[cold]
fn text_end(data: &[u8], from: usize) -> Read<(usize, u8)> {
    let mut high = 0;
    for (at, &byte) in data.iter().enumerate().skip(from) {
        if byte == b'"' || byte == b'\\' || byte < b' ' {
            return Ok((at, high));
        }
        high |= byte;
    }
    Err(Odd)
}

/// The double nearest to a number of many digits.
#[cold]
fn nearest(text: &[u8]) -> Read<f64> {
    std::str::from_utf8(text).map_err(|_| Odd)?.parse().map_err(|_| Odd)
}

#[inline(always)]
fn word_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().unwrap()))
}

const EACH: u64 = 0x0101_0101_0101_0101;

/// Marks bytes that are 0 by their highest bit; exact up to the lowest one.
#[inline(always)]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(EACH) & !word & (EACH * 0x80)
}

/// Marks control characters likewise.
#[inline(always)]
fn below_space(word: u64) -> u64 {
    word.wrapping_sub(EACH * 0x20) & !word & (EACH * 0x80)
}

#[inline(always)]
fn all_digits(word: u64) -> bool {
    let high = EACH * 0xf0;
    word & high == EACH * 0x30 && word.wrapping_add(EACH * 6) & high == EACH * 0x30
}

/// Eight digits, the first in the lowest byte.
#[inline(always)]
fn eight_digits(word: u64) -> u64 {
    let pairs = (word & (EACH * 0x0f)).wrapping_mul(10 * 256 + 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 * 65_536 + 1) >> 16;
    (fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 * (1 << 32) + 1) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<Scalar<'static>> {
        let mut reader = Reader::new(text.as_bytes());
        let value = reader.number().ok()?;
        reader.end().ok().map(|()| value)
    }

    #[test]
    fn numbers_are_those_of_the_standard_library() {
        for text in ["0.1", "1.5e3", "123456789.123456789", "2.2250738585072014e-308", "9007199254740993.0", "1E2", "-0.0"] {
            let Some(Scalar::Float(value)) = number(text) else { panic!("{text}") };
            assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
        assert_eq!(number("-12"), Some(Scalar::Int(-12)));
    }

    #[test]
    fn what_is_odd_is_left_alone() {
        for text in ["01", "-", "1.", ".5", "1e", "+1", "1e400", "9007199254740993", "-0", "NaN", ""] {
            assert!(number(text).is_none(), "{text}");
        }
        for text in [r#""a\n""#, "\"a\nb\"", "\"a", "\"\u{7f}"] {
            assert!(Reader::new(text.as_bytes()).text().is_err(), "{text}");
        }
        assert!(Reader::new(b"\"\xff\"").text().is_err());
    }

    #[test]
    fn strings_end_where_they_end() {
        for length in 0..40 {
            for (tail, good) in [("\"", true), ("\" :1", true), ("\\\"", false), ("\n\"", false), ("", false), ("\u{1f}aaaaaaaa\"", false)] {
                for filling in ["a", "!", "#", "[", "]", "\u{7f}", "é"] {
                    let text = filling.repeat(length);
                    let data = format!("\"{text}{tail}");
                    let found = Reader::new(data.as_bytes()).text().ok();
                    assert_eq!(found, good.then_some(text.as_bytes()), "{data:?}");
                }
            }
            let mut broken = format!("\"{}\"        ", "a".repeat(length + 1)).into_bytes();
            broken[1 + length] = 0xff;
            assert!(Reader::new(&broken).text().is_err());
        }
    }

    #[test]
    fn digits_by_eights_are_those_one_by_one() {
        for text in ["12345678", "123456789", "1760001080000", "9007199254740992", "00000001", "1234567:", "1234567/", "12345678.12345678"] {
            let mut reader = Reader::new(text.as_bytes());
            let expected: u64 = text.bytes().take_while(u8::is_ascii_digit).fold(0, |n, d| n * 10 + u64::from(d - b'0'));
            assert_eq!((reader.digits(0), reader.at), (expected, text.bytes().take_while(u8::is_ascii_digit).count()), "{text}");
        }
        assert_eq!(number("12345678.12345678"), Some(Scalar::Float(12345678.12345678)));
    }

    #[test]
    fn skipping_checks() {
        for (text, good) in [("[1,{\"a\":[]}]", true), ("[1,]", false), ("{\"a\" 1}", false), ("[[", false)] {
            assert_eq!(Reader::new(text.as_bytes()).skip().is_ok(), good, "{text}");
        }
    }
}
