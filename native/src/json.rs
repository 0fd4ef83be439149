//! A strict reader of the ordinary shapes of JSON. Whatever it does not know well (escapes, integers beyond 2^53, deep
//! nesting, odd numbers) is an `Err`: the caller leaves the record to the reference implementation, which decides.

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

    #[inline(always)]
    pub fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
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
    pub fn end(&mut self) -> Read<()> {
        self.space();
        if self.at == self.data.len() { Ok(()) } else { Err(Odd) }
    }

    /// A string without escapes, valid UTF-8.
    #[inline]
    pub fn text(&mut self) -> Read<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        let rest = &self.data[start..];
        let mut high = 0u8;
        for (length, &byte) in rest.iter().enumerate() {
            if byte == b'"' {
                self.at = start + length + 1;
                let text = &rest[..length];
                if high >= 0x80 && std::str::from_utf8(text).is_err() {
                    return Err(Odd);
                }
                return Ok(text);
            }
            if byte < 0x20 || byte == b'\\' {
                return Err(Odd);
            }
            high |= byte;
        }
        Err(Odd)
    }

    #[inline]
    pub fn int(&mut self) -> Read<i64> {
        match self.number()? {
            Scalar::Int(value) => Ok(value),
            _ => Err(Odd),
        }
    }

    /// A number: `Int` where it is written as one, else `Float`; both exact.
    #[inline]
    pub fn number(&mut self) -> Read<Scalar<'static>> {
        self.space();
        let start = self.at;
        let negative = self.take(b'-');
        let first = self.at;
        let mut mantissa = 0u64;
        while let digit @ b'0'..=b'9' = self.peek() {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        let mut digits = self.at - first;
        if digits == 0 || (digits > 1 && self.data[first] == b'0') {
            return Err(Odd);
        }
        let mut exponent = 0i32;
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            let begin = self.at;
            while let digit @ b'0'..=b'9' = self.peek() {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
                self.at += 1;
            }
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
            std::str::from_utf8(&self.data[start..self.at]).map_err(|_| Odd)?.parse().map_err(|_| Odd)?
        };
        if value.is_finite() { Ok(Scalar::Float(value)) } else { Err(Odd) }
    }

    #[inline]
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

    fn word(&mut self, word: &[u8], value: Scalar<'a>) -> Read<Scalar<'a>> {
        if self.data[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(Odd)
        }
    }

    /// Call `member` at every member of an object; it has to read the value.
    #[inline(always)]
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Read<()>) -> Read<()> {
        self.expect(b'{')?;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let name = self.text()?;
            self.expect(b':')?;
            member(self, name)?;
            self.space();
            if self.take(b',') {
                continue;
            }
            return self.expect(b'}');
        }
    }

    /// The next value starts an object.
    pub fn is_object(&mut self) -> bool {
        self.space();
        self.peek() == b'{'
    }

    pub fn is_null(&mut self) -> bool {
        self.space();
        self.peek() == b'n'
    }

    /// Step over a value that nobody wants, checking it all the same.
    pub fn skip(&mut self, depth: u32) -> Read<()> {
        self.space();
        match self.peek() {
            b'{' if depth < MOST_DEPTH => self.object(|reader, _| reader.skip(depth + 1)),
            b'[' if depth < MOST_DEPTH => {
                self.at += 1;
                self.space();
                if self.take(b']') {
                    return Ok(());
                }
                loop {
                    self.skip(depth + 1)?;
                    self.space();
                    if !self.take(b',') {
                        return self.expect(b']');
                    }
                }
            }
            b'{' | b'[' => Err(Odd),
            _ => self.scalar().map(|_| ()),
        }
    }
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
    fn skipping_checks() {
        for (text, good) in [("[1,{\"a\":[]}]", true), ("[1,]", false), ("{\"a\" 1}", false), ("[[", false)] {
            assert_eq!(Reader::new(text.as_bytes()).skip(0).is_ok(), good, "{text}");
        }
    }
}
