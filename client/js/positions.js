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
export class Positions {
  /** @type {Map<string, Place>} */
  #places = new Map();

  /**
   * A subscription is asked for from this position. It stays the channel's position until the answer, so that a
   * connection which is lost before it loses nothing.
   * @param {string} channel @param {{epoch: string, offset: number, base?: number}} from
   */
  seed(channel, { epoch, offset, base }) {
    this.#places.set(channel, { hash: fnv1a64(channel), epoch, offset, base, usable: true });
  }

  /** @param {string} channel */
  forget(channel) {
    this.#places.delete(channel);
  }

  /**
   * @param {import('./wire.js').Message} message of the server, after it has been handed to the application
   * @param {boolean} [datagram] whether it came in one
   */
  note(message, datagram = false) {
    switch (message.type) {
      case 'subscribed': {
        const { channel, epoch, offset } = message;
        const place = this.#places.get(channel);
        // The gap or the reset that says so may not arrive: until it does, the next one is to ask from here too.
        if (place && message.recovered === false) break;
        this.#places.set(channel, {
          hash: place?.hash ?? fnv1a64(channel), epoch, offset,
          // A subscription that goes on with a snapshot has no position of its own before `synced`.
          usable: place?.base === undefined,
        });
        break;
      }
      case 'publication': {
        const { channel, epoch, offset } = message;
        const place = this.#places.get(channel);
        // A datagram can have overtaken others; a stream is in the order of the offsets.
        if (place && !datagram && place.epoch === epoch && offset > place.offset) place.offset = offset;
        break;
      }
      case 'gap':
      case 'reset':
      case 'synced': {
        const { type, channel, epoch, offset } = message;
        const place = this.#places.get(channel);
        if (place) Object.assign(place, { epoch, offset, usable: type !== 'reset' });
      }
    }
  }

  /** @param {string} channel @returns {boolean} whether it has a position; it has none while a snapshot is under way */
  has(channel) {
    return this.#places.get(channel)?.usable ?? false;
  }

  /**
   * Moves a channel's position, but never back.
   * @param {{channel: string, epoch: string, offset: number}} to
   */
  settle({ channel, epoch, offset }) {
    const place = this.#places.get(channel);
    if (place?.usable && place.epoch === epoch && offset > place.offset) place.offset = offset;
  }

  /** @param {string} channel @returns {import('./cursor.js').Entry | null} null while it has no position */
  entry(channel) {
    const place = this.#places.get(channel);
    if (!place?.usable) return null;
    const { hash, epoch, offset, base } = place;
    return { hash, epoch, offset, ...(base === undefined ? {} : { base }) };
  }

  /** @returns {string | null} */
  get cursor() {
    const entries = [...this.#places.values()].filter(({ usable }) => usable);
    return formatCursor(entries.map(({ hash, epoch, offset, base }) => ({ hash, epoch, offset, base })));
  }
}
