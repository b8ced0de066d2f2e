//! The scanner of replies on its own: it finds the same ends however the bytes are cut, survives every byte, and takes no
//! more than it was given.

use bytes::Bytes;
use parallax::model::frame::scan::{DEPTH_MAX, FrameError, Progress, Scanner};
use parallax::model::frame::{Frame, Protocol};
use parallax::model::reply::Reply;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Every form of a reply, nested.
fn reply() -> impl Strategy<Value = Reply> {
    let bytes = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let text = || select(vec!["OK", "", "ERR no", "a b"]).prop_map(str::to_owned);
    let number = || select(vec!["1.5", "inf", "-0", "12345678901234567890123"]).prop_map(Bytes::from);
    let leaf = prop_oneof![
        Just(Reply::Nil),
        text().prop_map(Reply::Status),
        text().prop_map(Reply::Error),
        any::<i64>().prop_map(Reply::Integer),
        bytes().prop_map(Reply::Bulk),
        number().prop_map(Reply::Double),
        number().prop_map(Reply::BigNumber),
        any::<bool>().prop_map(Reply::Boolean),
        bytes().prop_map(|rest| Reply::Verbatim([b"txt:", rest.as_ref()].concat().into())),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Reply::Array),
            vec(inner.clone(), 0..6).prop_map(Reply::Set),
            vec(inner.clone(), 0..6).prop_map(Reply::Push),
            vec((inner.clone(), inner), 0..4).prop_map(Reply::Map),
        ]
    })
}

/// Bytes that are nearly frames.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => select(vec!["*", "$", "%", "~", ">", "|", "=", "!", "+", "-", ":", "_", "#", ",", "("]).prop_map(|sign| sign.as_bytes().to_vec()),
        4 => select(vec!["0", "1", "2", "-1", "-2", "512", "99999999999999999999", "9223372036854775807", "4294967297", "x"])
            .prop_map(|number| number.as_bytes().to_vec()),
        6 => Just(b"\r\n".to_vec()),
        1 => vec(any::<u8>(), 0..6),
    ];
    vec(part, 0..40).prop_map(|parts| parts.concat())
}

/// Feeds the bytes piece by piece, as a connection does; where the first frame ends, or that it does not, or why not.
fn fed(bytes: &[u8], cuts: &[usize]) -> Result<Option<usize>, FrameError> {
    let mut scanner = Scanner::default();
    let mut used = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        // A head that has not come to its end must come again, and may not be taken for used.
        match scanner.advance(&bytes[used..end.max(used)])? {
            Progress::Whole(length) => return Ok(Some(used + length)),
            Progress::Partial(length) => {
                assert!(used + length <= end.max(used));
                used += length;
            }
        }
    }
    Ok(None)
}

fn cuts(cuts: &[Index], length: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reply_is_found_whole_and_read_as_it_was_written(reply in reply(), more in noise(), at in vec(any::<Index>(), 0..6)) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let frame = Frame::of(&reply, protocol);
            let length = frame.bytes().len();
            let bytes = [frame.bytes().as_ref(), &more].concat();
            prop_assert_eq!(fed(&bytes, &cuts(&at, bytes.len())), Ok(Some(length)));
            for end in 0..length {
                prop_assert_eq!(fed(&bytes[..end], &[]), Ok(None));
            }
            if protocol == Protocol::Resp3 {
                prop_assert_eq!(frame.decode(), reply.clone());
            }
        }
    }

    #[test]
    fn noise_ends_where_it_ends_however_it_is_cut(bytes in noise(), at in vec(any::<Index>(), 0..8)) {
        let whole = fed(&bytes, &[]);
        prop_assert_eq!(fed(&bytes, &cuts(&at, bytes.len())), whole);
        prop_assert_eq!(fed(&bytes, &(0..bytes.len()).collect::<Vec<_>>()), whole);
        // Whatever it is, to read it does no harm.
        let _ = Frame::new(bytes.into()).decode();
    }
}

#[test]
fn depth_and_length_and_count_have_limits() {
    let deep = |levels: usize| [b"*1\r\n".repeat(levels).as_slice(), b":1\r\n"].concat();
    assert!(matches!(fed(&deep(DEPTH_MAX), &[]), Ok(Some(_))));
    assert_eq!(fed(&deep(DEPTH_MAX + 1), &[]), Err(FrameError::Depth));
    for head in ["$99999999999\r\n", "*99999999999\r\n", "%99999999999\r\n"] {
        assert_eq!(fed(head.as_bytes(), &[]), Err(FrameError::Size), "{head}");
    }
    for head in ["$1x\r\n", "*\r\n", "$--1\r\n", "*99999999999999999999999999999999999999999\r\n"] {
        assert_eq!(fed(head.as_bytes(), &[]), Err(FrameError::Number), "{head}");
    }
    assert_eq!(fed(b"?1\r\n", &[]), Err(FrameError::Type));
}
