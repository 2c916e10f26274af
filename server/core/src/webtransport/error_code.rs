//! Error codes of streams. An application's code shares a space with HTTP/3's own, so it is carried in a range that was
//! set aside for it. draft-ietf-webtrans-http3-02, section 4.3.

/// Where the range begins.
const FIRST: u64 = 0x52e4_a40f_a8db;
/// Where it ends: what `u32::MAX` is carried as.
const LAST: u64 = 0x52e5_ac98_3162;
/// Every 31st code point of HTTP/3 is reserved for greasing, and stands for nothing here.
const RESERVED: u64 = 0x1f;

/// A stream's session has ended. draft-ietf-webtrans-http3-07, section 4.6.
pub const SESSION_GONE: u64 = 0x170d_7b68;
/// A stream names a session that is not here. draft-ietf-webtrans-http3-02, section 4.4.
pub const BUFFERED_STREAM_REJECTED: u64 = 0x3994_bd84;

/// What carries an application's code in RESET_STREAM and STOP_SENDING.
pub const fn to_http3(code: u32) -> u64 {
    let code = code as u64;
    FIRST + code + code / (RESERVED - 1)
}

/// The application's code that is carried; `None` for a code that is not an application's.
pub const fn from_http3(code: u64) -> Option<u32> {
    if code < FIRST || code > LAST || (code - 0x21).is_multiple_of(RESERVED) {
        return None;
    }
    let shifted = code - FIRST;
    Some((shifted - shifted / RESERVED) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_carried_as_the_draft_says() {
        // The ends of the range, as the draft gives them, and the neighbours of the first reserved code point.
        for (code, carried) in [
            (0, 0x52e4_a40f_a8db),
            (0x1d, 0x52e4_a40f_a8f8),
            (0x1e, 0x52e4_a40f_a8fa),
            (0xff, 0x52e4_a40f_a9e2),
            (u32::MAX, 0x52e5_ac98_3162),
        ] {
            assert_eq!(to_http3(code), carried, "{code:#x}");
            assert_eq!(from_http3(carried), Some(code), "{code:#x}");
        }
    }

    #[test]
    fn what_is_not_an_applications_is_told_apart() {
        for code in [0, 0x10c, FIRST - 1, 0x52e4_a40f_a8f9, LAST + 1, SESSION_GONE, (1 << 62) - 1] {
            assert_eq!(from_http3(code), None, "{code:#x}");
        }
    }
}
