//! Finds the first words of commands in the bytes that leave for Redis: an array of strings each, or a line.

/// Calls `each` with the name and the first two arguments of every command in `bytes`, which are whole commands.
pub(super) fn commands(bytes: &[u8], mut each: impl FnMut(&[u8], &[u8], &[u8])) {
    let mut at = 0;
    while at < bytes.len() {
        let Some((line, behind)) = line(bytes, at) else { return };
        at = behind;
        let Some(count) = line.strip_prefix(b"*").and_then(number) else {
            let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
            let mut next = || words.next().unwrap_or_default();
            each(next(), next(), next());
            continue;
        };
        let mut words: [&[u8]; 3] = Default::default();
        for word in 0..count {
            let Some((length, behind)) = line_of_length(bytes, at) else { return };
            if let (Some(place), Some(text)) = (words.get_mut(word), bytes.get(behind..behind + length)) {
                *place = text;
            }
            at = behind + length + 2;
        }
        each(words[0], words[1], words[2]);
    }
}

fn line_of_length(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (line, behind) = line(bytes, at)?;
    Some((number(line.strip_prefix(b"$")?)?, behind))
}

/// The line that begins at `at`, without its end, and where the next one begins.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), at + end + 1))
}

fn number(digits: &[u8]) -> Option<usize> {
    let digit = |sum: usize, digit: &u8| digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0'));
    (digits.len() <= 10 && !digits.is_empty()).then(|| digits.iter().try_fold(0, digit)).flatten()
}
