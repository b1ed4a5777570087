//! Finds where the pieces of a JSON text end, eight bytes at a time.
//!
//! Invariant: what is accepted here is what serde_json accepts, and ends at the same byte; what is not accepted may be JSON all
//! the same. No position leads to a panic.

/// A one in each byte of a word, and the highest bit of each.
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Digits that fit an `i64` whatever they are.
const INTEGER_DIGITS_MAX: usize = 18;

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*chunk))
}

/// Marks the bytes of `word` that equal `byte`. Only the lowest mark is sure to be one.
const fn marks(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (ONES * byte as u64);
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & HIGHS
}

/// Where a line feed is, at or after `at`.
pub(crate) fn line_feed(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(word) = word(bytes, at) {
        let found = marks(word, b'\n');
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter()
        .position(|byte| *byte == b'\n')
        .map(|found| at + found)
}

/// The first byte at or after `at` that ends a run of plain string content: a quote, a backslash, a control character.
#[inline]
fn string_mark(bytes: &[u8], mut at: usize) -> Option<usize> {
    // Compilers make a few vector instructions of this; where the mark is does not matter yet.
    while let Some(chunk) = bytes.get(at..)?.first_chunk::<32>() {
        let mark = |byte: &u8| (*byte == b'"') | (*byte == b'\\') | (*byte < 0x20);
        if chunk.iter().fold(false, |found, byte| found | mark(byte)) {
            break;
        }
        at += 32;
    }
    while let Some(word) = word(bytes, at) {
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = marks(word, b'"') | marks(word, b'\\') | control;
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
        .map(|found| at + found)
}

/// The closing quote of the string whose content begins at `at`, and whether the content has no escapes.
#[inline]
pub(super) fn string_end(bytes: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut plain = true;
    loop {
        at = string_mark(bytes, at)?;
        match bytes.get(at)? {
            b'"' => return Some((at, plain)),
            b'\\' => {
                plain = false;
                at = escape_end(bytes, at + 1)?;
            }
            _ => return None,
        }
    }
}

/// The end of the escape whose letter is at `at`.
fn escape_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => {
            let digits = bytes.get(at + 1..at + 5)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(at + 5)
        }
        _ => None,
    }
}

/// The number of decimal digits that `word` begins with.
const fn leading_digits(word: u64) -> u32 {
    // A digit has the high half 3, and stays below 0x40 when 6 is added.
    let high = word & (ONES * 0xf0);
    let carried = word.wrapping_add(ONES * 0x06) & (ONES * 0xf0);
    let odd = (high ^ (ONES * 0x30)) | (carried ^ (ONES * 0x30));
    odd.trailing_zeros() / 8
}

/// The value of eight digits, the first in the lowest byte.
const fn eight_digits(word: u64) -> u64 {
    let pairs = (word & (ONES * 0x0f)).wrapping_mul((10 << 8) | 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul((100 << 16) | 1) >> 16;
    (fours & 0x0000_ffff_0000_ffff).wrapping_mul((10_000 << 32) | 1) >> 32
}

/// A whole number of at most 18 digits, and its end; `None` for anything else, such as a number that goes on.
#[inline]
pub(super) fn integer(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let first = at + usize::from(negative);
    let (mut value, mut end) = (0, first);
    while let Some(word) = word(bytes, end) {
        let count = leading_digits(word);
        if count == 0 {
            break;
        }
        // Digits move to the end of the word, and zeros come before them.
        let shifted = if count == 8 {
            word
        } else {
            word << (64 - 8 * count)
        };
        value = value * POWERS[count as usize & 15] + eight_digits(shifted) as i64;
        end += count as usize;
        if count < 8 || end - first > INTEGER_DIGITS_MAX - 8 {
            break;
        }
    }
    while let Some(digit @ b'0'..=b'9') = bytes.get(end) {
        if end - first >= INTEGER_DIGITS_MAX {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
        end += 1;
    }
    let leading_zero = end - first > 1 && bytes.get(first) == Some(&b'0');
    if end == first || leading_zero || matches!(bytes.get(end), Some(b'.' | b'e' | b'E')) {
        return None;
    }
    Some((if negative { -value } else { value }, end))
}

/// Powers of ten by exponent; a count of digits in a word is at most 8.
const POWERS: [i64; 16] = {
    let mut powers = [1; 16];
    let mut exponent = 1;
    while exponent < 16 {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

fn digits_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    (at > start).then_some(at)
}

/// The end of any number.
fn number_end(bytes: &[u8], at: usize) -> Option<usize> {
    let first = at + usize::from(bytes.get(at) == Some(&b'-'));
    let mut end = digits_end(bytes, first)?;
    if end - first > 1 && bytes.get(first) == Some(&b'0') {
        return None;
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits_end(bytes, end + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let signed = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
        end = digits_end(bytes, end + 1 + usize::from(signed))?;
    }
    Some(end)
}

/// The end of `word` when it is what is at `at`.
#[inline]
pub(super) fn word_end(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    let rest = bytes.get(at..)?;
    rest.starts_with(word).then_some(at + word.len())
}

/// The first byte at or after `at` that is not blank.
#[inline]
pub(super) fn blank_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The end of the value that begins at `at`, at most `depth` arrays and objects deep.
pub(super) fn value_end(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => string_end(bytes, at + 1).map(|(quote, _)| quote + 1),
        b'-' | b'0'..=b'9' => number_end(bytes, at),
        b't' => word_end(bytes, at, b"true"),
        b'f' => word_end(bytes, at, b"false"),
        b'n' => word_end(bytes, at, b"null"),
        open @ (b'[' | b'{') => nested_end(bytes, at, *open == b'{', depth.checked_sub(1)?),
        _ => None,
    }
}

fn nested_end(bytes: &[u8], at: usize, object: bool, depth: usize) -> Option<usize> {
    let close = if object { b'}' } else { b']' };
    let mut at = blank_end(bytes, at + 1);
    if bytes.get(at) == Some(&close) {
        return Some(at + 1);
    }
    loop {
        if object {
            at = colon_end(bytes, at)?;
        }
        at = blank_end(bytes, value_end(bytes, at, depth)?);
        match bytes.get(at)? {
            b',' => at = blank_end(bytes, at + 1),
            end if *end == close => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Where the value of the member whose name begins at `at` begins.
fn colon_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let (quote, _) = string_end(bytes, at + 1)?;
    let colon = blank_end(bytes, quote + 1);
    (bytes.get(colon) == Some(&b':')).then(|| blank_end(bytes, colon + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::format::json::arbitrary;

    #[test]
    fn whole_numbers_end_where_their_digits_do() {
        for (text, expected) in [
            ("0", Some((0, 1))),
            ("-0,", Some((0, 2))),
            ("7}", Some((7, 1))),
            ("12345678,", Some((12_345_678, 8))),
            ("123456789, 12345678", Some((123_456_789, 9))),
            (
                "1234567890123456,       ",
                Some((1_234_567_890_123_456, 16)),
            ),
            ("-999999999999999999", Some((-999_999_999_999_999_999, 19))),
            (
                "999999999999999999,        ",
                Some((999_999_999_999_999_999, 18)),
            ),
            ("1000000000000000000", None),
            ("1000000000000000000,       ", None),
            ("01", None),
            ("-01,        ", None),
            ("1.0", None),
            ("1e3,        ", None),
            ("12E3", None),
            ("-", None),
            ("", None),
            ("-a       ", None),
            ("1:       ", Some((1, 1))),
            ("1/       ", Some((1, 1))),
            ("1\u{fa}       ", Some((1, 1))),
        ] {
            assert_eq!(integer(text.as_bytes(), 0), expected, "{text}");
        }
    }

    #[test]
    fn strings_end_at_their_first_own_quote() {
        for (text, expected) in [
            ("\"", Some((0, true))),
            ("abc\" and a \"", Some((3, true))),
            ("eight by\"", Some((8, true))),
            ("é and 漢字 in it\"", Some((19, true))),
            ("a\\\"b\"", Some((4, false))),
            ("\\u00e9\\\\\"", Some((8, false))),
            ("\\ud800\"", Some((6, false))),
            ("no end", None),
            ("a line\nfeed\"", None),
            ("\\x\"", None),
            ("\\u12g4\"", None),
            ("\\", None),
            ("\u{7f}\"", Some((1, true))),
        ] {
            assert_eq!(string_end(text.as_bytes(), 0), expected, "{text}");
        }
    }

    #[test]
    fn a_line_feed_is_found_wherever_it_is() {
        for length in 0..40 {
            let mut text = vec![b'x'; length];
            assert_eq!(line_feed(&text, 0), None);
            for at in 0..length {
                text[at] = b'\n';
                for from in 0..=at {
                    assert_eq!(line_feed(&text, from), Some(at));
                }
                text[at] = if at % 2 == 0 { 0x8a } else { 0x0b };
            }
        }
    }

    #[test]
    fn half_a_surrogate_pair_passes_where_serde_json_lets_it_pass() {
        let text = r#"{"\ud800":["\udc00"]}"#;
        assert_eq!(serde_end(text), Some(text.len()));
        assert_eq!(value_end(text.as_bytes(), 0, 9), Some(text.len()));
    }

    /// What serde_json says of the value at the start of a text: where it ends.
    fn serde_end(text: &str) -> Option<usize> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Box<RawValue>>();
        values.next()?.ok()?;
        Some(values.byte_offset())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whole_numbers_are_read_as_the_standard_library_does(value in any::<i64>(), shift in 0..63u32, end in "[,}\\] a]{0,9}") {
            let value = value >> shift;
            let text = format!("{value}{end}");
            let expected = (value.to_string().trim_start_matches('-').len() <= 18)
                .then(|| (value, value.to_string().len()));
            prop_assert_eq!(integer(text.as_bytes(), 0), expected);
        }

        #[test]
        fn values_end_where_serde_json_ends_them(value in arbitrary::value(), junk in "[,}\\]\"0-9 ]{0,9}", pretty in any::<bool>()) {
            let mut text = if pretty { format!("{value:#}") } else { value.to_string() };
            text.push(' ');
            let length = text.len() - 1;
            text.push_str(&junk);
            let end = value_end(text.as_bytes(), 0, 64);
            prop_assert_eq!(end, Some(length), "{}", text);
        }

        #[test]
        fn nothing_is_accepted_that_serde_json_refuses(
            value in arbitrary::value(),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), "[-{}\\[\\]\",:\\\\u0-9eE.tfn \n]", 0..3u8), 1..4),
        ) {
            let mut text = value.to_string();
            for (index, insert, action) in cuts {
                let mut at = index.index(text.len() + 1);
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                match action {
                    0 => text.insert_str(at, &insert),
                    1 => text.truncate(at),
                    _ => { if at < text.len() { text.remove(at); } }
                }
            }
            let at = blank_end(text.as_bytes(), 0);
            if let Some(end) = value_end(text.as_bytes(), at, 64) {
                // A stream of values wants a blank behind a number; that one cannot be told here.
                let alone = text.get(..end).expect("a value ends between characters");
                prop_assert_eq!(serde_end(alone), Some(end), "{}", text);
            }
        }
    }
}
