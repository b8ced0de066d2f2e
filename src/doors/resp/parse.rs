//! Finds the commands in what a client sends: arrays of strings, and lines that are typed by hand. What is wrong gets the
//! error that Redis itself gives, word for word, and then the connection closes.
//!
//! It goes on where it stopped, so a command that comes byte by byte is looked at once.

/// Bytes of a line that is typed by hand, or of a line that announces a length.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one argument; Redis' own default.
const BULK_BYTES_MAX: i64 = 512 * 1024 * 1024;
/// Arguments of a command, for a client that has not said who it is.
const ARGUMENTS_MAX_UNKNOWN: i64 = 10;
/// Bytes of an argument, for a client that has not said who it is.
const BULK_BYTES_MAX_UNKNOWN: i64 = 16_384;

/// Where an argument stands, counted from the first byte of its command.
pub(super) type Range = (usize, usize);

/// What stands at the head of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A command of this many bytes; its arguments stand in [`Parser::ranges`].
    Array(usize),
    /// A line of this many bytes, typed by hand; its arguments stand in [`Parser::words`].
    Line(usize),
    /// Nothing, of this many bytes: an empty line or an array without arguments.
    Empty(usize),
    /// Not the whole of a command.
    Incomplete,
}

/// Whether the client has said who it is, where it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It has, or need not.
    Known,
    /// It has not.
    Unknown,
}

/// Finds one command after the other.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The arguments of the present command.
    pub(super) ranges: Vec<Range>,
    /// The arguments of a line.
    pub(super) words: Vec<Vec<u8>>,
    at: usize,
    missing: i64,
    bulk: Option<usize>,
}

impl Parser {
    /// Looks at `input`, which begins with the command that was begun.
    ///
    /// # Errors
    /// What Redis says of it.
    pub(super) fn next(&mut self, input: &[u8], trust: Trust) -> Result<Found, Vec<u8>> {
        if self.missing == 0 {
            self.ranges.clear();
            self.words.clear();
            match input.first() {
                None => return Ok(Found::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.line(input),
            }
            let Some((number, used)) = head(input, "too big mbulk count string")? else {
                return Ok(Found::Incomplete);
            };
            let count = number.filter(|count| *count <= i64::from(i32::MAX));
            let count = count.ok_or(b"Protocol error: invalid multibulk length")?;
            if trust == Trust::Unknown && count > ARGUMENTS_MAX_UNKNOWN {
                return Err(b"Protocol error: unauthenticated multibulk length".to_vec());
            }
            if count <= 0 {
                return Ok(Found::Empty(used));
            }
            (self.at, self.missing, self.bulk) = (used, count, None);
        }
        while self.missing > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => match self.bulk_length(input, trust)? {
                    Some(length) => *self.bulk.insert(length),
                    None => return Ok(Found::Incomplete),
                },
            };
            if input.len() < self.at + length + 2 {
                return Ok(Found::Incomplete);
            }
            self.ranges.push((self.at, self.at + length));
            self.at += length + 2;
            (self.missing, self.bulk) = (self.missing - 1, None);
        }
        Ok(Found::Array(std::mem::take(&mut self.at)))
    }

    /// How many more bytes the present argument needs at least.
    pub(super) fn wants(&self, input: usize) -> usize {
        self.bulk.map_or(0, |length| (self.at + length + 2).saturating_sub(input))
    }

    /// How many bytes a command that has not come whole has at least; 0 when none has begun.
    pub(super) fn announced(&self) -> usize {
        if self.missing == 0 { 0 } else { self.at + self.bulk.map_or(0, |length| length + 2) }
    }

    /// How many arguments the present command has, also those that have not come.
    pub(super) fn count(&self) -> usize {
        self.ranges.len() + usize::try_from(self.missing).unwrap_or(0)
    }

    /// From here on the present command is handed on as it comes, from its first byte, and its arguments are not noted.
    pub(super) fn hand_on(&mut self) -> Rest {
        let rest = Rest { seen: self.at, missing: self.missing, open: self.bulk.map_or(0, |length| length + 2) };
        (self.at, self.missing, self.bulk) = (0, 0, None);
        rest
    }

    fn bulk_length(&mut self, input: &[u8], trust: Trust) -> Result<Option<usize>, Vec<u8>> {
        let rest = input.get(self.at..).unwrap_or_default();
        let Some((length, used)) = bulk_head(rest, trust)? else { return Ok(None) };
        self.at += used;
        Ok(Some(length))
    }

    fn line(&mut self, input: &[u8]) -> Result<Found, Vec<u8>> {
        let Some(end) = end_of_line(input, b'\n') else {
            if input.len() > LINE_BYTES_MAX {
                return Err(b"Protocol error: too big inline request".to_vec());
            }
            return Ok(Found::Incomplete);
        };
        let line = input.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.words = words(line).ok_or(b"Protocol error: unbalanced quotes in request")?;
        Ok(if self.words.is_empty() { Found::Empty(end + 1) } else { Found::Line(end + 1) })
    }
}

/// What is missing of a command that is handed on as it comes.
#[derive(Debug)]
pub(super) struct Rest {
    /// Bytes at the head of the input that were looked at already.
    seen: usize,
    /// Arguments that have not come whole.
    missing: i64,
    /// Bytes of the present one that have not come, with its end of line.
    open: usize,
}

impl Rest {
    /// How many bytes at the head of `input` belong to the command, and whether it ends with them. They are taken off the
    /// input before this is asked again.
    ///
    /// # Errors
    /// What Redis says of it.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<(usize, bool), Vec<u8>> {
        let mut at = std::mem::take(&mut self.seen);
        loop {
            let rest = input.get(at..).unwrap_or_default();
            if self.open == 0 {
                let Some((length, used)) = bulk_head(rest, Trust::Known)? else { return Ok((at, false)) };
                self.open = length + 2;
                at += used;
                continue;
            }
            let here = self.open.min(rest.len());
            self.open -= here;
            at += here;
            if self.open > 0 {
                return Ok((at, false));
            }
            self.missing -= 1;
            if self.missing <= 0 {
                return Ok((at, true));
            }
        }
    }
}

/// The length that the head of an argument announces, and the bytes of the head; `None` when it has not come whole.
fn bulk_head(rest: &[u8], trust: Trust) -> Result<Option<(usize, usize)>, Vec<u8>> {
    let Some((number, used)) = head(rest, "too big bulk count string")? else { return Ok(None) };
    if let Some(sign) = rest.first().filter(|sign| **sign != b'$') {
        // It stands there as the byte that it is, unless it would end the line.
        let sign = if matches!(sign, b'\r' | b'\n') { b' ' } else { *sign };
        return Err([b"Protocol error: expected '$', got '".as_slice(), &[sign], b"'"].concat());
    }
    let length = number.filter(|length| (0..=BULK_BYTES_MAX).contains(length));
    let length = length.ok_or(b"Protocol error: invalid bulk length")?;
    if trust == Trust::Unknown && length > BULK_BYTES_MAX_UNKNOWN {
        return Err(b"Protocol error: unauthenticated bulk length".to_vec());
    }
    Ok(usize::try_from(length).ok().map(|length| (length, used)))
}

/// The number behind the sign of a head, `None` in its place when it is none, and the bytes of the head.
fn head(bytes: &[u8], too_big: &str) -> Result<Option<(Option<i64>, usize)>, Vec<u8>> {
    let Some(end) = end_of_line(bytes, b'\r') else {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(format!("Protocol error: {too_big}").into_bytes());
        }
        return Ok(None);
    };
    // Redis waits for the byte behind the carriage return, and does not look what it is.
    if bytes.len() < end + 2 {
        return Ok(None);
    }
    Ok(Some((integer(bytes.get(1..end).unwrap_or_default()), end + 2)))
}

/// Where a line ends. Redis looks for the end as for that of a text in C: behind a NUL it sees nothing, and waits.
fn end_of_line(bytes: &[u8], end: u8) -> Option<usize> {
    let found = bytes.iter().take(LINE_BYTES_MAX + 1).position(|byte| *byte == end || *byte == 0)?;
    (bytes.get(found) == Some(&end)).then_some(found)
}

/// What stands between words; within a word only some of it ends it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// A number as Redis reads one: no sign but a minus, no leading zero, nothing around it.
fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// The words of a line that was typed by hand, with quotes and escapes; `None` when a quote is not closed.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = line;
    let mut words = Vec::new();
    loop {
        let Some(start) = rest.iter().position(|byte| !is_space(*byte)) else { return Some(words) };
        rest = rest.get(start..)?;
        let mut word = Vec::new();
        loop {
            match *rest {
                [b'"', ref inside @ ..] => rest = quoted(inside, &mut word)?,
                [b'\'', ref inside @ ..] => rest = quoted_plainly(inside, &mut word)?,
                [byte, ref after @ ..] if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => {
                    word.push(byte);
                    rest = after;
                    continue;
                }
                _ => break,
            }
            // A closing quote ends its word.
            if rest.first().is_some_and(|byte| !is_space(*byte)) {
                return None;
            }
            break;
        }
        words.push(word);
    }
}

fn quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match *rest {
            [b'\\', b'x', high, low, ref after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                word.push(digit(high)? * 16 + digit(low)?);
                rest = after;
            }
            [b'\\', escaped, ref after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                rest = after;
            }
            [b'"', ref after @ ..] => return Some(after),
            [byte, ref after @ ..] => {
                word.push(byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn quoted_plainly<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match *rest {
            [b'\\', b'\'', ref after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', ref after @ ..] => return Some(after),
            [byte, ref after @ ..] => {
                word.push(byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &[u8]) -> Result<Found, Vec<u8>> {
        Parser::default().next(input, Trust::Known)
    }

    #[test]
    fn a_command_is_found_however_it_is_cut() {
        let input = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*1\r\n";
        for cut in 0..23 {
            let mut parser = Parser::default();
            assert_eq!(parser.next(&input[..cut], Trust::Known), Ok(Found::Incomplete), "{cut}");
            assert_eq!(parser.next(input, Trust::Known), Ok(Found::Array(23)));
            assert_eq!(parser.ranges, [(8, 11), (17, 21)]);
        }
    }

    #[test]
    fn a_command_that_is_handed_on_ends_where_it_ends_however_it_is_cut() {
        let command = b"*4\r\n$4\r\nHSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n$2\r\n*1\r\n";
        let input = [command.as_slice(), b"*1\r\n"].concat();
        for begun in 5..command.len() {
            let mut parser = Parser::default();
            assert_eq!(parser.next(&input[..begun], Trust::Known), Ok(Found::Incomplete));
            assert_eq!(parser.count(), 4);
            let mut rest = parser.hand_on();
            let (mut from, mut to) = (0, begun);
            let whole = loop {
                let (used, ends) = rest.advance(&input[from..to]).expect("a command");
                from += used;
                if ends {
                    break from;
                }
                to += 1;
            };
            assert_eq!(whole, command.len(), "{begun}");
            assert_eq!(parser.next(&input[whole..], Trust::Known), Ok(Found::Incomplete));
        }
        let mut rest = Rest { seen: 0, missing: 1, open: 0 };
        assert_eq!(rest.advance(b"$-1\r\n"), Err(b"Protocol error: invalid bulk length".to_vec()));
    }

    #[test]
    fn a_line_is_split_as_redis_splits_it() {
        let line = |text: &[u8]| {
            let mut parser = Parser::default();
            let found = parser.next(text, Trust::Known);
            (found, parser.words)
        };
        assert_eq!(line(b"PING\r\n"), (Ok(Found::Line(6)), vec![b"PING".to_vec()]));
        let (_, words) = line(b"set k \"a\\x41\\n\" 'it\\'s'\n");
        assert_eq!(words, [&b"set"[..], b"k", b"aA\n", b"it's"].map(<[u8]>::to_vec));
        assert_eq!(line(b"\r\n").0, Ok(Found::Empty(2)));
        assert_eq!(line(b"GET \"a\r\n").0, Err(b"Protocol error: unbalanced quotes in request".to_vec()));
        assert_eq!(line(b"GET \"a\"b\r\n").0, Err(b"Protocol error: unbalanced quotes in request".to_vec()));
    }

    #[test]
    fn what_is_wrong_gets_the_words_of_redis() {
        let text = |found: Result<Found, Vec<u8>>| String::from_utf8(found.expect_err("refused")).expect("text");
        let error = |input: &[u8]| text(parse(input));
        assert_eq!(error(b"*x\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(error(b"*2147483648\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(error(b"*1\r\n:1\r\n"), "Protocol error: expected '$', got ':'");
        assert_eq!(error(b"*1\r\n\r\n"), "Protocol error: expected '$', got ' '");
        assert_eq!(error(b"*1\r\n$-1\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(error(b"*1\r\n$536870913\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(error(&[b'a'; 65_537]), "Protocol error: too big inline request");
        let unknown = |input: &[u8]| text(Parser::default().next(input, Trust::Unknown));
        assert_eq!(unknown(b"*11\r\n"), "Protocol error: unauthenticated multibulk length");
        assert_eq!(unknown(b"*1\r\n$16385\r\n"), "Protocol error: unauthenticated bulk length");
        assert_eq!(parse(b"*-1\r\n"), Ok(Found::Empty(5)));
    }
}
