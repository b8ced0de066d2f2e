//! Finds the end of a reply, piece by piece as it comes, without looking at values. RESP2 and RESP3.
//!
//! It remembers only how deep it is and how much is missing, so a large value can be handed on while it is still coming.

/// How deep replies may be nested.
pub const DEPTH_MAX: usize = 512;
/// Items of one array, map, set or push.
pub const ITEMS_MAX: i64 = 1 << 31;
/// Bytes of one string; Redis' own limit is 512 MiB unless it was told otherwise.
pub const BULK_BYTES_MAX: i64 = 4 << 30;
/// Bytes of the line that announces a length.
const NUMBER_BYTES_MAX: usize = 32;

/// What comes is no reply of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame begins with no known sign.
    #[error("a frame of an unknown type")]
    Type,
    /// A length that is no number, or negative where it must not be.
    #[error("a length that is none")]
    Number,
    /// Deeper than [`DEPTH_MAX`].
    #[error("a frame nested too deep")]
    Depth,
    /// Longer than [`BULK_BYTES_MAX`], or with more items than [`ITEMS_MAX`].
    #[error("a frame that is too large")]
    Size,
}

/// How far a frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It ends after this many of the bytes.
    Whole(usize),
    /// This many of the bytes belong to it, and more must come.
    Partial(usize),
}

/// Finds the end of one frame after the other. Holds 8 bytes for each level of nesting.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    /// How many items each open level still misses.
    open: Vec<u64>,
    /// Bytes of the present string that are missing, with its end of line.
    missing: u64,
    in_line: bool,
}

impl Scanner {
    /// Goes on over `bytes`, which follow what was used before. What is not used must come again, with more behind it.
    ///
    /// # Errors
    /// When this is no reply.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, FrameError> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if self.missing > 0 {
                let here = usize::try_from(self.missing).unwrap_or(usize::MAX).min(rest.len());
                self.missing -= here as u64;
                at += here;
                if self.missing > 0 {
                    return Ok(Progress::Partial(at));
                }
            } else if self.in_line {
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                    return Ok(Progress::Partial(bytes.len()));
                };
                self.in_line = false;
                at += end + 1;
            } else {
                match self.begin(rest)? {
                    None => return Ok(Progress::Partial(at)),
                    Some((used, Begun::Open)) => {
                        at += used;
                        continue;
                    }
                    Some((used, Begun::Empty)) => at += used,
                }
            }
            if self.ends() {
                return Ok(Progress::Whole(at));
            }
        }
    }

    /// Whether it stands between two frames.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.missing == 0 && !self.in_line && self.open.is_empty()
    }

    /// How many bytes of the present string are missing, as far as is known.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Begins a frame or a part of one: how many bytes its head takes, and whether something follows.
    fn begin(&mut self, rest: &[u8]) -> Result<Option<(usize, Begun)>, FrameError> {
        let Some(sign) = rest.first() else { return Ok(None) };
        if matches!(sign, b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_') {
            self.in_line = true;
            return Ok(Some((1, Begun::Open)));
        }
        if !matches!(sign, b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|') {
            return Err(FrameError::Type);
        }
        let Some((number, used)) = number(rest)? else { return Ok(None) };
        let begun = match sign {
            b'$' | b'=' | b'!' => self.begin_string(number)?,
            b'%' => self.begin_items(number, 2, 0)?,
            // An attribute stands before what it says something about, and both are one item.
            b'|' => self.begin_items(number, 2, 1)?,
            _ => self.begin_items(number, 1, 0)?,
        };
        Ok(Some((used, begun)))
    }

    fn begin_string(&mut self, length: i64) -> Result<Begun, FrameError> {
        if length > BULK_BYTES_MAX {
            return Err(FrameError::Size);
        }
        let Ok(length) = u64::try_from(length) else { return Ok(Begun::Empty) };
        self.missing = length + 2;
        Ok(Begun::Open)
    }

    fn begin_items(&mut self, count: i64, each: u64, more: u64) -> Result<Begun, FrameError> {
        if count > ITEMS_MAX {
            return Err(FrameError::Size);
        }
        let items = u64::try_from(count).unwrap_or(0) * each + more;
        if items == 0 {
            return Ok(Begun::Empty);
        }
        if self.open.len() == DEPTH_MAX {
            return Err(FrameError::Depth);
        }
        self.open.push(items);
        Ok(Begun::Open)
    }

    /// Notes the end of an item; whether the whole frame ends with it.
    fn ends(&mut self) -> bool {
        while let Some(missing) = self.open.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

enum Begun {
    /// Something follows its head.
    Open,
    /// It is at its end already.
    Empty,
}

/// The number of a head such as `$12\r\n` and how many bytes the head takes; `None` when it has not come to its end.
///
/// # Errors
/// When it is no number.
pub fn number(bytes: &[u8]) -> Result<Option<(i64, usize)>, FrameError> {
    let Some(end) = bytes.iter().take(NUMBER_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= NUMBER_BYTES_MAX { Err(FrameError::Number) } else { Ok(None) };
    };
    let line = bytes.get(1..end.saturating_sub(1)).ok_or(FrameError::Number)?;
    let (digits, is_negative) = match line.split_first() {
        Some((b'-', digits)) => (digits, true),
        Some(_) | None => (line, false),
    };
    let mut value: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(FrameError::Number);
        }
        let next = value.checked_mul(10).and_then(|value| value.checked_add(i64::from(digit - b'0')));
        value = next.ok_or(FrameError::Number)?;
    }
    if digits.is_empty() {
        return Err(FrameError::Number);
    }
    Ok(Some((if is_negative { -value } else { value }, end + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: [&[u8]; 14] = [
        b"+OK\r\n",
        b"-ERR x\r\n",
        b":12\r\n",
        b"$5\r\nhe\r\no\r\n",
        b"$0\r\n\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
        b"%1\r\n+a\r\n*2\r\n:1\r\n_\r\n",
        b"~1\r\n,1.5\r\n",
        b"|1\r\n+ttl\r\n:3\r\n*1\r\n#t\r\n",
        b"=8\r\ntxt:some\r\n",
        b">2\r\n+message\r\n(12345678901234567890\r\n",
    ];

    #[test]
    fn a_frame_ends_where_it_ends_however_it_is_cut() {
        for frame in FRAMES {
            let longer = [frame, b"+next\r\n"].concat();
            assert_eq!(Scanner::default().advance(&longer), Ok(Progress::Whole(frame.len())));
            let (mut scanner, mut from, mut to) = (Scanner::default(), 0, 0);
            loop {
                to += 1;
                match scanner.advance(&frame[from..to]).expect("a frame") {
                    Progress::Partial(used) => from += used,
                    Progress::Whole(used) => {
                        assert_eq!(from + used, frame.len(), "{}", String::from_utf8_lossy(frame));
                        assert!(scanner.is_between());
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_by_name() {
        let scan = |bytes: &[u8]| Scanner::default().advance(bytes);
        assert_eq!(scan(b"hello"), Err(FrameError::Type));
        assert_eq!(scan(b"$x\r\n"), Err(FrameError::Number));
        assert_eq!(scan(b"$\r\n"), Err(FrameError::Number));
        assert_eq!(scan(b"$99999999999999999999\r\n"), Err(FrameError::Number));
        assert_eq!(scan(b"$4294967297\r\n"), Err(FrameError::Size));
        assert_eq!(scan(b"*2147483649\r\n"), Err(FrameError::Size));
        assert_eq!(scan(&b"*1\r\n".repeat(DEPTH_MAX + 1)), Err(FrameError::Depth));
        assert_eq!(scan(&[b'$'; 40]), Err(FrameError::Number));
    }
}
