/**
 * Where a connection has got to in each of its channels, from the messages it has seen (PROTOCOL.md, sections 2, 3
 * and 9).
 */
import { fnv1a64, formatCursor } from './cursor.js';

/**
 * @typedef {object} Place
 * @property {string} hash
 * @property {string} epoch
 * @property {number} offset
 * @property {number} [base] of a server's cursor, until the subscription it was handed to has been answered
 * @property {boolean} usable false while a snapshot is under way: a position within it means nothing
 */
export function createPositions() {
  /** @type {Map<string, Place>} */
  const places = new Map();

  /**
   * Moves a channel's position, but never back.
   * @param {{channel: string, epoch: string, offset: number}} to
   */
  function settle({ channel, epoch, offset }) {
    const place = places.get(channel);
    if (place?.usable && place.epoch === epoch && offset > place.offset) place.offset = offset;
  }

  /** @param {string} channel @returns {import('./cursor.js').Entry | null} null while it has no position */
  function entry(channel) {
    const { usable, ...at } = places.get(channel) ?? {};
    return usable ? /** @type {import('./cursor.js').Entry} */ (at) : null;
  }

  return {
    settle,
    entry,

    /**
     * A subscription is asked for from this position. It stays the channel's position until the answer, so that a
     * connection which is lost before it loses nothing.
     * @param {string} channel @param {{epoch: string, offset: number, base?: number}} from
     */
    seed(channel, from) {
      places.set(channel, { ...from, hash: fnv1a64(channel), usable: true });
    },

    /** @param {string} channel */
    forget(channel) {
      places.delete(channel);
    },

    /**
     * @param {import('./wire.js').InChannel | import('./wire.js').Subscribed} message of the server, after it has been handed to the application
     * @param {boolean} [datagram] whether it came in one
     */
    note(message, datagram) {
      const { type, channel, epoch, offset } = message;
      const place = places.get(channel);
      if (type === 'subscribed') {
        // The gap or the reset that says so may not arrive: until it does, the next one is to ask from here too.
        if (place && message.recovered === false) return;
        // A subscription that goes on with a snapshot has no position of its own before `synced`.
        places.set(channel, { hash: fnv1a64(channel), epoch, offset, usable: place?.base === undefined });
      } else if (type === 'publication') {
        // A datagram can have overtaken others; a stream is in the order of the offsets.
        if (!datagram) settle(message);
      } else if (place) Object.assign(place, { epoch, offset, usable: type !== 'reset' });
    },

    /** @returns {string | null} */
    cursor() {
      return formatCursor([...places.keys()].flatMap((channel) => entry(channel) ?? []));
    },
  };
}
/** @typedef {ReturnType<typeof createPositions>} Positions */
