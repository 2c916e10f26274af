//! Where in a log: epochs, offsets, positions.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    limits,
    problem::{Code, Problem},
};

/// The place of a publication in its log. Only grows within an epoch, not necessarily by one. Below 2^53, so that a
/// JavaScript number holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// Before the first publication.
    pub const ZERO: Self = Self(0);
    /// The largest offset, 2^53 - 1.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The offset `n`, or `None` from 2^53 on.
    pub const fn new(n: u64) -> Option<Self> {
        if n <= Self::MAX.0 { Some(Self(n)) } else { None }
    }

    /// As a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next offset, or `None` at the end of the numbers.
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The one before; 0 stays 0.
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names one unbroken history of a channel: 1 to 32 bytes of ASCII letters, digits, `_` and `-`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Checks an epoch.
    ///
    /// # Errors
    /// `bad_cursor` when it is empty, too long, or has another character.
    pub fn parse(epoch: &str) -> Result<Self, Problem> {
        let ok = (1..=limits::EPOCH_BYTES).contains(&epoch.len())
            && epoch.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if ok {
            Ok(Self(epoch.into()))
        } else {
            Err(Problem::new(Code::BadCursor, "an epoch is 1 to 32 ASCII letters, digits, _ and -"))
        }
    }

    /// A new epoch from 64 random bits.
    pub fn from_entropy(bits: u64) -> Self {
        Self(URL_SAFE_NO_PAD.encode(bits.to_be_bytes()).into())
    }

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A place in a channel's history: everything up to and including `offset` of `epoch` has been read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The history.
    pub epoch: Epoch,
    /// The place in it.
    pub offset: Offset,
}
