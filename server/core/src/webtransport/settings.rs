//! The SETTINGS by which clients know that WebTransport is spoken here. Every draft has ids of its own, and a client looks
//! for those of the draft that it implements; h3 sends draft-02's.

use crate::codec::varint;

/// The control stream's type. RFC 9114, section 6.2.1.
pub const CONTROL_STREAM: u64 = 0x00;
/// RFC 9114, section 7.2.4.
const SETTINGS: u64 = 0x04;

/// What is said besides what h3 says. One session at a time, since more would ask for flow control by capsules; clients of
/// draft-02 are told a number of their own.
const MORE: [(u64, u64); 2] = [
    // draft-ietf-webtrans-http3-07, section 3.1 (SETTINGS_WEBTRANSPORT_MAX_SESSIONS), which Safari looks for.
    (0xc671_706a, 1),
    // draft-ietf-webtrans-http3-13, section 3.1 (SETTINGS_WT_MAX_SESSIONS).
    (0x14e9_cd29, 1),
];

/// The beginning of a control stream, with more settings in its first frame. `None` when `preface` is not that: the stream's
/// type and one whole SETTINGS frame.
pub fn extend(preface: &[u8]) -> Option<Vec<u8>> {
    let (kind, at) = varint::read(preface)?;
    let (frame, length) = varint::read(&preface[at..])?;
    let at = at + length;
    let (size, length) = varint::read(&preface[at..])?;
    let payload = &preface[at + length..];
    if (kind, frame) != (CONTROL_STREAM, SETTINGS) || size != payload.len() as u64 {
        return None;
    }
    let mut settings = payload.to_vec();
    for (id, value) in MORE {
        varint::write(&mut settings, id);
        varint::write(&mut settings, value);
    }
    let mut out = Vec::with_capacity(settings.len() + 8);
    varint::write(&mut out, CONTROL_STREAM);
    varint::write(&mut out, SETTINGS);
    varint::write(&mut out, settings.len() as u64);
    out.append(&mut settings);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_of_a_control_stream_grows() {
        let extended = extend(&[0x00, 0x04, 0x02, 0x08, 0x01]).expect("a control stream");
        let mut expected = vec![0x00, 0x04, 0x0c, 0x08, 0x01];
        expected.extend([0xc0, 0, 0, 0, 0xc6, 0x71, 0x70, 0x6a, 0x01]);
        expected.extend([0x94, 0xe9, 0xcd, 0x29, 0x01]);
        expected[2] = expected.len() as u8 - 3;
        assert_eq!(extended, expected);
    }

    #[test]
    fn nothing_else_is_touched() {
        let whole = [0x00, 0x04, 0x02, 0x08, 0x01];
        for cut in 0..whole.len() {
            assert_eq!(extend(&whole[..cut]), None, "cut at {cut}");
        }
        for other in [&[0x02][..], &[0x00, 0x07, 0x01, 0x00], &[0x00, 0x04, 0x02, 0x08, 0x01, 0x00]] {
            assert_eq!(extend(other), None, "{other:?}");
        }
    }
}
