//! Subscriptions that a client asks for with its CONNECT: `/wt?subscribe=FRAMES`. PROTOCOL.md, section 8.
//!
//! A client that asks for them on a stream can do so when it knows that it has a session, a round trip later. So the server opens
//! that stream, and takes the frames out of the URL as what the client has sent on it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use fulmar_core::{
    ClientMessage, Code, Problem,
    codec::{binary, framing::Splitter},
};

use crate::limits;

/// The frames of a request for a session, whole and each a `subscribe`; `None` where it has none.
///
/// # Errors
/// `bad_request`, or what is wrong with a frame. Whether a channel can be read is not asked here.
pub(super) fn subscriptions(query: Option<&str>) -> Result<Option<Bytes>, Problem> {
    let mut given = query.unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("subscribe="));
    let Some(text) = given.next() else { return Ok(None) };
    let bad = |message: &str| Problem::new(Code::BadRequest, format!("subscribe in the URL: {message}"));
    if given.next().is_some() {
        return Err(bad("it is given twice"));
    }
    if text.len() > limits::EARLY_TEXT {
        return Err(bad(&format!("it has more than {} characters", limits::EARLY_TEXT)));
    }
    let frames = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("it is not base64url without padding"))?;
    let mut splitter = Splitter::new(limits::EARLY_TEXT);
    splitter.push(&frames);
    let mut count = 0;
    while let Some(frame) = splitter.take().map_err(|_| bad("a frame is longer than all of it"))? {
        match binary::decode(&frame).map_err(|rejection| rejection.problem)? {
            ClientMessage::Subscribe { .. } => count += 1,
            _ => return Err(bad("a frame is no subscribe")),
        }
    }
    if !splitter.is_empty() {
        return Err(bad("the last frame is not whole"));
    }
    match count {
        0 => Err(bad("it has no frame")),
        _ if count > limits::EARLY_SUBSCRIPTIONS => {
            Err(bad(&format!("it has more than {} frames", limits::EARLY_SUBSCRIPTIONS)))
        }
        _ => Ok(Some(frames.into())),
    }
}
