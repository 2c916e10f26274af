/** Bytes of `fulmar.v1.bin`: integers, strings and payloads, which all frames are made of (PROTOCOL.md, section 5). */
export { HAS_ID, HAS_KEY, KIND, REMOVED } from './codes.js';
export { MAX_INTEGER } from './limits.js';
import { BINARY, JSON_VALUE, TEXT } from './codes.js';
import { MAX_INTEGER } from './limits.js';
import { malformed } from './errors.js';
import { parseJson } from './json.js';

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** @param {Uint8Array[]} chunks */
export function join(chunks) {
  const bytes = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/**
 * An integer of the protocol: the first two bits of its 1, 2, 4 or 8 bytes tell how many they are.
 * @param {number | bigint} value below 2^53, and as a bigint below 2^62
 */
function integerBytes(value) {
  if (value < 0 || (value > MAX_INTEGER && typeof value === 'number')) throw new RangeError(`${value}`);
  const log = value < 0x40 ? 0 : value < 0x4000 ? 1 : value < 0x40000000 ? 2 : 3;
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value) + BigInt(log * 2 ** ((8 << log) - 2)));
  return bytes.subarray(-1 << log);
}

/**
 * @param {(number | bigint | string | Uint8Array)[]} fields integers, strings, which stand behind their length, and bytes as they are
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function pack(fields) {
  return join(fields.flatMap((field) => {
    if (field instanceof Uint8Array) return field;
    if (typeof field !== 'string') return integerBytes(field);
    const bytes = encoder.encode(field);
    return [integerBytes(bytes.length), bytes];
  }));
}

export class Reader {
  #bytes;
  #at = 0;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.#bytes = bytes;
  }

  /** @param {number} count */
  #take(count) {
    const at = this.#at;
    if (count > this.#bytes.length - at) throw malformed('length');
    this.#at = at + count;
    return at;
  }

  byte() {
    return /** @type {number} */ (this.#bytes[this.#take(1)]);
  }

  integer() {
    return this.#integer(0);
  }

  /** In zigzag: 0, -1, 1, -2, ... are 0, 1, 2, 3, ... */
  signed() {
    // Without the last bit, which is the sign: with it, the number could be too large for one.
    const half = this.#integer(1);
    return /** @type {number} */ (this.#bytes[this.#at - 1]) & 1 ? -half - 1 : half;
  }

  /** @param {number} less the bits at its end that are left out */
  #integer(less) {
    let last = this.byte();
    let more = (1 << (last >> 6)) - 1;
    let before = 0;
    last &= 0x3f;
    for (; more > 0; more--) {
      before = before * 256 + last;
      last = this.byte();
    }
    const value = before * (256 >> less) + (last >> less);
    // Arithmetic above 2^53 rounds, but never to a value below it.
    if (value > MAX_INTEGER) throw malformed('integer');
    return value;
  }

  string() {
    return text(this.counted());
  }

  rest() {
    return this.taken(this.#bytes.length - this.#at);
  }

  /** As many bytes as the length before them says. */
  counted() {
    return this.taken(this.integer());
  }

  /** So many bytes, which do not keep the frame in memory. @param {number} length */
  taken(length) {
    const at = this.#take(length);
    return this.#bytes.slice(at, at + length);
  }

  get ended() {
    return this.#at === this.#bytes.length;
  }

  end() {
    if (!this.ended) throw malformed('length');
  }
}

/** @param {Uint8Array} bytes */
export function text(bytes) {
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    throw malformed('UTF-8', cause);
  }
}

/** @param {unknown} data @returns {[kind: number, bytes: Uint8Array]} */
export function packPayload(data) {
  if (data instanceof Uint8Array) return [BINARY, data];
  if (typeof data === 'string') return [TEXT, encoder.encode(data)];
  const json = JSON.stringify(data);
  if (json === undefined) throw new TypeError('data is text, bytes, or what JSON can hold');
  return [JSON_VALUE, encoder.encode(json)];
}

/** @param {number} kind @param {Uint8Array} bytes @returns {unknown} */
export function unpackPayload(kind, bytes) {
  if (kind === BINARY) return bytes;
  return kind === TEXT ? text(bytes) : parseJson(text(bytes));
}
