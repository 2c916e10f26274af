/** The JSON encoding of the messages of wire.js (PROTOCOL.md, sections 1 and 4). */

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let binary = '';
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

/** @param {string} base64 */
export function fromBase64(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

const CONTENT = new Set(['publication', 'publish']);

/**
 * @param {import('./wire.js').Message} message
 * @returns {Record<string, unknown>} what JSON.stringify turns into the message's JSON
 */
export function toJson(message) {
  if (!CONTENT.has(message.type)) return message;
  const { key, id, removed, data, ttl_ms, priority, ...json } = message;
  if (key) json.key = key;
  if (id !== undefined) json.id = id;
  if (removed) json.removed = true;
  if (ttl_ms !== undefined) json.ttl_ms = ttl_ms;
  if (priority !== undefined) json.priority = priority;
  if (!removed) {
    if (data instanceof Uint8Array) json.b64 = toBase64(data);
    else json.data = data;
  }
  return json;
}

/**
 * @param {Record<string, any>} json a parsed message
 * @param {string} [type] the type where it stands elsewhere: SSE and poll leave it out of publications
 * @returns {import('./wire.js').Message}
 */
export function fromJson(json, type = json.type) {
  if (!CONTENT.has(type)) return { ...json, type };
  const { b64, data, key = '', removed = false, ...rest } = json;
  /** @type {import('./wire.js').Message} */
  const message = { ...rest, type, key, removed };
  if (b64 !== undefined) message.data = fromBase64(b64);
  else if (!removed) message.data = data;
  return message;
}
