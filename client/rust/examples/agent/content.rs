//! Payloads as agents speak of them, and their checksum.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fulmar_client::Payload;
use serde_json::{Map, Value, json};

/// A payload as `{"data"}` or `{"b64"}`.
pub fn content(payload: &Payload) -> Map<String, Value> {
    let (member, value) = match payload {
        Payload::Binary(bytes) => ("b64", json!(STANDARD.encode(bytes))),
        Payload::Text(text) => ("data", json!(String::from_utf8_lossy(text))),
        Payload::Json(text) => ("data", serde_json::from_slice(text).unwrap_or(Value::Null)),
    };
    Map::from_iter([(member.to_owned(), value)])
}

/// The payload that a request describes; `None` for a removal.
pub fn payload(request: &Value) -> Result<Option<Payload>, String> {
    if request["removed"] == true {
        return Ok(None);
    }
    if let Some(b64) = request["b64"].as_str() {
        return Ok(Some(Payload::Binary(STANDARD.decode(b64).map_err(|why| why.to_string())?.into())));
    }
    match request.get("data") {
        Some(data) => Payload::json(data.to_string().as_bytes()).map(Some).map_err(|why| why.to_string()),
        None => Err("neither data nor b64 nor removed".to_owned()),
    }
}

/// The 32-bit FNV-1a of payloads, each followed by a line feed.
#[derive(Clone, Copy)]
pub struct Checksum(pub u32);

impl Default for Checksum {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Checksum {
    pub fn add(&mut self, payload: Option<&Payload>) {
        match payload {
            None => {}
            Some(Payload::Binary(bytes) | Payload::Text(bytes)) => self.bytes(bytes),
            Some(Payload::Json(text)) => {
                let value = serde_json::from_slice(text).unwrap_or(Value::Null);
                self.bytes(stringify(&value).as_bytes());
            }
        }
        self.bytes(b"\n");
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    }
}

/// As JavaScript's `JSON.stringify` writes it, but for members whose names are integers, which it puts first.
pub fn stringify(value: &Value) -> String {
    match value {
        Value::Number(number) => stringify_number(number.as_f64().unwrap_or(f64::NAN)),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(stringify).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{}:{}", json!(name), stringify(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// ECMA-262, Number::toString. Rust gives the same shortest digits, and only lays them out otherwise.
fn stringify_number(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let sign = if number < 0.0 { "-" } else { "" };
    let scientific = format!("{:e}", number.abs());
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = digits.replace('.', "");
    let (count, point) = (digits.len() as i32, exponent.parse::<i32>().unwrap_or(0) + 1);
    let text = match point {
        1..=21 if count <= point => format!("{digits}{}", "0".repeat((point - count) as usize)),
        1..=21 => format!("{}.{}", &digits[..point as usize], &digits[point as usize..]),
        -5..=0 => format!("0.{}{digits}", "0".repeat(-point as usize)),
        _ => {
            let fraction = if count > 1 { format!(".{}", &digits[1..]) } else { String::new() };
            format!("{}{fraction}e{:+}", &digits[..1], point - 1)
        }
    };
    format!("{sign}{text}")
}
