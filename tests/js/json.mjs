/** The JSON encoding of all messages (PROTOCOL.md, sections 1 and 4), for tests: the client itself has what SSE and polling need. */
import { fromBase64, toBase64 } from '../../client/js/json.js';

/** What JSON.stringify turns into the message's JSON. */
export function toJson(message) {
  if (message.type !== 'publication' && message.type !== 'publish') return message;
  const content = message;
  const { key, id, removed, data, ttl_ms, priority, ...json } = content;
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

/** A message out of its parsed JSON. */
export function fromJson(json, type = json.type) {
  if (type !== 'publication' && type !== 'publish') return { ...json, type };
  const { b64, data, key = '', removed = false, ...rest } = json;
  const message = { ...rest, type, key, removed };
  if (b64 !== undefined) message.data = fromBase64(b64);
  else if (!removed) message.data = data;
  return message;
}
