/** Frames preceded by their length: on WebTransport streams and inside datagrams. */
import { MAX_FRAME } from './limits.js';
import { Reader, join, pack } from './bytes.js';
import { malformed } from './errors.js';

/** @param {Uint8Array} frame @returns {Uint8Array} the frame behind its length */
export const prefixed = (frame) => pack([frame.length, frame]);

/**
 * Cuts a byte stream into frames, and holds no more of it than one frame of the bound's length and one chunk.
 * @param {number} [limit]
 */
export function createSplitter(limit = MAX_FRAME) {
  /** @type {Uint8Array[]} */
  let chunks = [];
  let held = 0;
  // Until this many bytes are held there is nothing to look for.
  let need = 1;

  return {
    /** Bytes of a frame that has not come to its end. */
    get pending() {
      return held;
    },

    /** @param {Uint8Array} chunk @returns {Uint8Array[]} the frames that are complete with it */
    push(chunk) {
      if (chunk.length) chunks.push(chunk);
      held += chunk.length;
      /** @type {Uint8Array[]} */
      const frames = [];
      if (held < need) return frames;

      const bytes = chunks[1] ? join(chunks) : chunk;
      let at = 0;
      need = 1;
      while (at < bytes.length) {
        const start = at + (1 << (/** @type {number} */ (bytes[at]) >> 6));
        let end = start;
        if (start <= bytes.length) {
          const length = new Reader(bytes.subarray(at, start)).integer();
          if (length > limit) throw malformed('length');
          end += length;
        }
        if (end > bytes.length) {
          need = end - at;
          break;
        }
        frames.push(bytes.subarray(start, end));
        at = end;
      }
      held = bytes.length - at;
      chunks = held ? [at ? bytes.slice(at) : bytes] : [];
      return frames;
    },
  };
}

/** @param {Uint8Array} datagram or a batch @returns {Uint8Array[]} its frames; it holds whole ones only */
export function splitDatagram(datagram) {
  const splitter = createSplitter(datagram.length);
  const frames = splitter.push(datagram);
  if (splitter.pending) throw malformed('length');
  return frames;
}

/** What a WebSocket's message begins with that holds several frames. */
const BATCH = 0x0e;

/** @param {Uint8Array} message of a WebSocket @returns {Uint8Array[]} its frames: itself, or those of a batch */
export const splitMessage = (message) => (message[0] === BATCH ? splitDatagram(message.subarray(1)) : [message]);
