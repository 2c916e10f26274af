/** Frames preceded by their length: on WebTransport streams and inside datagrams. */
import { Reader, Writer, join } from './bytes.js';
import { malformed } from './errors.js';
import { MAX_FRAME } from './wire.js';

/** @param {Uint8Array} frame @returns {Uint8Array} the frame behind its length */
export const prefixed = (frame) => new Writer().integer(frame.length).bytes(frame).finish();

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

    const [only] = this.#chunks;
    const bytes = only && this.#chunks.length === 1 ? only : join(this.#chunks);
    let at = 0;
    this.#need = 1;
    while (at < bytes.length) {
      const start = at + (1 << (/** @type {number} */ (bytes[at]) >> 6));
      let end = start;
      if (start <= bytes.length) {
        const length = new Reader(bytes.subarray(at, start)).integer();
        if (length > this.#limit) throw malformed(`a frame of ${length} bytes is too long`);
        end += length;
      }
      if (end > bytes.length) {
        this.#need = end - at;
        break;
      }
      frames.push(bytes.subarray(start, end));
      at = end;
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
  if (splitter.pending) throw malformed('a datagram ends within a frame');
  return frames;
}
