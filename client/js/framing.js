/** Frames preceded by their length: on WebTransport streams and inside datagrams. */
import { FulmarError } from './errors.js';
import { MAX_FRAME } from './wire.js';

const NOTHING = new Uint8Array(0);

/** @param {Uint8Array} frame @returns {Uint8Array} the frame behind its length */
export function prefixed(frame) {
  const { length } = frame;
  const head = length < 0x40 ? 1 : length < 0x4000 ? 2 : 4;
  const bytes = new Uint8Array(head + length);
  if (head === 1) bytes[0] = length;
  else if (head === 2) new DataView(bytes.buffer).setUint16(0, length | 0x4000);
  else new DataView(bytes.buffer).setUint32(0, (length | 0x80000000) >>> 0);
  bytes.set(frame, head);
  return bytes;
}

/** Cuts a byte stream into frames, and holds no more of it than one frame of the bound's length and one chunk. */
export class FrameSplitter {
  #limit;
  /** @type {Uint8Array[]} */
  #chunks = [];
  #held = 0;
  /** Until this many bytes are held there is nothing to look for. */
  #need = 1;

  constructor(limit = MAX_FRAME) {
    this.#limit = limit;
  }

  /** Bytes of a frame that has not come to its end. */
  get pending() {
    return this.#held;
  }

  /** @param {Uint8Array} chunk @returns {Uint8Array[]} the frames that are complete with it */
  push(chunk) {
    if (chunk.length) this.#chunks.push(chunk);
    this.#held += chunk.length;
    /** @type {Uint8Array[]} */
    const frames = [];
    if (this.#held < this.#need) return frames;

    const [only = NOTHING] = this.#chunks;
    const bytes = this.#chunks.length === 1 ? only : join(this.#chunks, this.#held);
    let at = 0;
    this.#need = 1;
    while (at < bytes.length) {
      const head = 1 << (byteAt(bytes, at) >> 6);
      if (bytes.length - at < head) {
        this.#need = head;
        break;
      }
      let length = byteAt(bytes, at) & 0x3f;
      for (let i = 1; i < head; i++) length = length * 256 + byteAt(bytes, at + i);
      if (length > this.#limit) throw new FulmarError('malformed', `a frame of ${length} bytes is too long`);
      if (bytes.length - at < head + length) {
        this.#need = head + length;
        break;
      }
      frames.push(bytes.subarray(at + head, at + head + length));
      at += head + length;
    }
    this.#held = bytes.length - at;
    this.#chunks = this.#held ? [at ? bytes.slice(at) : bytes] : [];
    return frames;
  }
}

/** @param {Uint8Array} datagram @returns {Uint8Array[]} its frames; a datagram holds whole ones only */
export function splitDatagram(datagram) {
  const splitter = new FrameSplitter(datagram.length);
  const frames = splitter.push(datagram);
  if (splitter.pending) throw new FulmarError('malformed', 'a datagram ends within a frame');
  return frames;
}

/** @param {Uint8Array} bytes @param {number} at within them */
const byteAt = (bytes, at) => /** @type {number} */ (bytes[at]);

/** @param {Uint8Array[]} chunks @param {number} length of all */
function join(chunks, length) {
  if (!chunks.length) return NOTHING;
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
