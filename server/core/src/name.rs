//! Names that were checked once, at the edge.

use std::{fmt, sync::Arc};

use crate::{
    limits,
    problem::{Code, Problem},
};

/// The name of a channel: 1 to 255 bytes of ASCII letters, digits and `. _ - : / ~ = @`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// Checks a name.
    ///
    /// # Errors
    /// `bad_channel` when it is empty, too long, or has another character.
    pub fn parse(name: &str) -> Result<Self, Problem> {
        let ok = (1..=limits::CHANNEL_NAME_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/~=@".contains(&b));
        if ok {
            Ok(Self(name.into()))
        } else {
            Err(Problem::new(
                Code::BadChannel,
                "a channel is 1 to 255 ASCII letters, digits and . _ - : / ~ = @",
            ))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What precedes the first `:`, or `default`.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or("default", |(namespace, _)| namespace)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of a value in a state channel; `""` when the publisher names none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<str>);

impl Key {
    /// Checks a key that was given: 1 to 255 bytes.
    ///
    /// # Errors
    /// `bad_key` when it is empty or too long.
    pub fn parse(key: &str) -> Result<Self, Problem> {
        if (1..=limits::KEY_BYTES).contains(&key.len()) {
            Ok(Self(key.into()))
        } else {
            Err(Problem::new(Code::BadKey, "a key is 1 to 255 bytes; leave it out for the key \"\""))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the key `""`, which no encoding carries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A publisher's own name for a publication, by which a repeat is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicationId(Box<str>);

impl PublicationId {
    /// Checks an id: 1 to 64 bytes.
    ///
    /// # Errors
    /// `bad_id` when it is empty or too long.
    pub fn parse(id: &str) -> Result<Self, Problem> {
        if (1..=limits::PUBLICATION_ID_BYTES).contains(&id.len()) {
            Ok(Self(id.into()))
        } else {
            Err(Problem::new(Code::BadId, "a publication id is 1 to 64 bytes"))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
