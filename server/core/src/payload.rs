//! What a publication carries.

use bytes::Bytes;

/// The body of a publication. A JSON string *is* text: decoders never produce a `Json` that holds a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Bytes: `b64` in JSON.
    Binary(Bytes),
    /// UTF-8: a string in `data`. The bytes were checked.
    Text(Bytes),
    /// Any JSON value but a string, as its text: `data` in JSON. The text was checked.
    Json(Bytes),
}

impl Payload {
    /// A text payload.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(Bytes::from(text.into().into_bytes()))
    }

    /// Checks and canonicalises a JSON value: a string becomes [`Payload::Text`].
    ///
    /// # Errors
    /// The parser's, when `json` is not one JSON value.
    pub fn json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let raw: &serde_json::value::RawValue = serde_json::from_slice(json)?;
        if raw.get().starts_with('"') {
            let text: String = serde_json::from_str(raw.get())?;
            Ok(Self::text(text))
        } else {
            Ok(Self::Json(Bytes::copy_from_slice(raw.get().as_bytes())))
        }
    }

    /// The bytes, whatever they mean.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Binary(bytes) | Self::Text(bytes) | Self::Json(bytes) => bytes,
        }
    }
}
