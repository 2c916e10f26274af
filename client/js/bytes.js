/** Bytes of `fulmar.v1.bin`: integers, strings and payloads, which all frames are made of (PROTOCOL.md, section 5). */
import { FulmarError } from './errors.js';

export const MAX_INTEGER = Number.MAX_SAFE_INTEGER;

const BINARY = 0, TEXT = 1, JSON_VALUE = 2;
/** Flags of a publication: the bits of its payload's kind, and what it has. */
export const KIND = 0x03, HAS_KEY = 0x04, REMOVED = 0x08, HAS_ID = 0x10;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** @param {string} what @param {unknown} [cause] */
export const malformed = (what, cause) => new FulmarError('malformed', what, { cause });

/** @param {number} n */
function integerSize(n) {
  if (!Number.isSafeInteger(n) || n < 0) throw new RangeError(`not an integer of the protocol: ${n}`);
  return n < 0x40 ? 1 : n < 0x4000 ? 2 : n < 0x40000000 ? 4 : 8;
}

export class Writer {
  #bytes = new Uint8Array(128);
  #length = 0;

  /** @param {number} more @returns {number} where so many bytes go, in `#bytes` as it is after this call */
  #room(more) {
    const need = this.#length + more;
    if (need > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(need, this.#bytes.length * 2));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    const at = this.#length;
    this.#length = need;
    return at;
  }

  /** @param {number} value */
  byte(value) {
    const at = this.#room(1);
    this.#bytes[at] = value;
    return this;
  }

  /** @param {number} value */
  integer(value) {
    const size = integerSize(value);
    const at = this.#room(size);
    const view = new DataView(this.#bytes.buffer);
    if (size === 1) view.setUint8(at, value);
    else if (size === 2) view.setUint16(at, value | 0x4000);
    else if (size === 4) view.setUint32(at, (value | 0x80000000) >>> 0);
    else {
      view.setUint32(at, (Math.floor(value / 2 ** 32) | 0xc0000000) >>> 0);
      view.setUint32(at + 4, value >>> 0);
    }
    return this;
  }

  /** @param {Uint8Array} value */
  bytes(value) {
    const at = this.#room(value.length);
    this.#bytes.set(value, at);
    return this;
  }

  /** @param {string} value */
  string(value) {
    const bytes = encoder.encode(value);
    return this.integer(bytes.length).bytes(bytes);
  }

  /** In zigzag: 0, -1, 1, -2, ... are 0, 1, 2, 3, ... @param {number} value whose magnitude is below 2^53 */
  signed(value) {
    if (!Number.isSafeInteger(value)) throw new RangeError(`not an integer of the protocol: ${value}`);
    const wide = BigInt(value);
    return this.wide(wide < 0n ? -2n * wide - 1n : 2n * wide);
  }

  /** An integer of up to 62 bits. @param {bigint} value */
  wide(value) {
    if (value <= MAX_INTEGER) return this.integer(Number(value));
    const at = this.#room(8);
    new DataView(this.#bytes.buffer).setBigUint64(at, value | 0xc000000000000000n);
    return this;
  }

  finish() {
    return this.#bytes.slice(0, this.#length);
  }
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
    if (count > this.#bytes.length - at) throw malformed('the frame is truncated');
    this.#at = at + count;
    return at;
  }

  byte() {
    return /** @type {number} */ (this.#bytes[this.#take(1)]);
  }

  integer() {
    const first = this.byte();
    let value = first & 0x3f;
    for (let more = (1 << (first >> 6)) - 1; more > 0; more--) value = value * 256 + this.byte();
    // Arithmetic above 2^53 rounds, but never to a value below it.
    if (value > MAX_INTEGER) throw malformed('an integer is 2^53 or above');
    return value;
  }

  /** In zigzag. */
  signed() {
    const first = this.byte();
    let before = 0, last = first & 0x3f;
    for (let more = (1 << (first >> 6)) - 1; more > 0; more--) {
      before = before * 256 + last;
      last = this.byte();
    }
    // Without the last bit, which is the sign: with it, the number could be too large for one.
    const half = before * 128 + (last >> 1);
    if (half > MAX_INTEGER) throw malformed('a difference is 2^53 or above');
    return last & 1 ? -half - 1 : half;
  }

  /** An integer of up to 62 bits. */
  wide() {
    const first = this.byte();
    let value = BigInt(first & 0x3f);
    for (let more = (1 << (first >> 6)) - 1; more > 0; more--) value = (value << 8n) | BigInt(this.byte());
    return value;
  }

  string() {
    const length = this.integer();
    const at = this.#take(length);
    return text(this.#bytes.subarray(at, at + length));
  }

  rest() {
    return this.#bytes.slice(this.#take(this.#bytes.length - this.#at));
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
    if (!this.ended) throw malformed('bytes follow the frame');
  }
}

/** @param {Uint8Array} bytes */
function text(bytes) {
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    throw malformed('a string is not UTF-8', cause);
  }
}

/** @param {unknown} data @returns {[kind: number, bytes: Uint8Array]} */
export function packPayload(data) {
  if (data instanceof Uint8Array) return [BINARY, data];
  if (typeof data === 'string') return [TEXT, encoder.encode(data)];
  const json = JSON.stringify(data);
  if (json === undefined) throw new TypeError('data is neither text, bytes nor a JSON value');
  return [JSON_VALUE, encoder.encode(json)];
}

/** @param {number} kind @param {Uint8Array} bytes @returns {unknown} */
export function unpackPayload(kind, bytes) {
  if (kind === BINARY) return bytes;
  if (kind === TEXT) return text(bytes);
  try {
    return JSON.parse(text(bytes));
  } catch (cause) {
    throw malformed('a JSON payload is not JSON', cause);
  }
}
