/**
 * What state channels hold, put together from their messages on any transport (PROTOCOL.md, section 2).
 *
 * A snapshot replaces what is held value by value, so that no key is missing for a moment: what a `reset` forgets is
 * shown on until the snapshot has brought its key anew, or has come to its end without it.
 */
import { MAX_AHEAD, MAX_REMOVED } from './limits.js';

/**
 * @typedef {object} Value
 * @property {string} epoch
 * @property {number} offset
 * @property {number} time
 * @property {boolean} removed
 * @property {unknown} [data]
 * @typedef {object} Held
 * @property {string | undefined} epoch
 * @property {boolean} synced
 * @property {Map<string, Value>} values
 * @property {Map<string, Value>} forgotten by a reset, and only shown
 * @property {Map<string, Value>} removed in the order in which they were
 * @property {Ahead} ahead of the reset of its epoch
 *
 * @typedef {Map<string, Publication>} Ahead by epoch and key
 * @typedef {import('./wire.js').Publication} Publication
 */

/**
 * Keeps what may have overtaken the reset of its epoch: the newest of each key, so that little is kept of events.
 * @param {Ahead} ahead @param {Publication} message
 */
export function keepAhead(ahead, message) {
  const what = `${message.epoch} ${message.key}`;
  const before = ahead.get(what);
  if (before ? before.offset < message.offset : ahead.size < MAX_AHEAD) ahead.set(what, message);
}

/** @param {Ahead} ahead @param {{epoch: string, offset: number}} reset @returns {Publication[]} what it does not forget of that; no more is kept */
export function takeAhead(ahead, { epoch, offset }) {
  const kept = [...ahead.values()].filter((one) => one.epoch === epoch && one.offset > offset);
  ahead.clear();
  return kept;
}

export class StateView {
  /** @type {Map<string, Held>} */
  #channels = new Map();
  /** The `time` of the newest publication applied; 0 before the first. */
  newest = 0;

  /**
   * @param {import('./wire.js').Message} message publication, reset or synced of a state channel; others do nothing
   * @param {(key: string) => void} [changed] is told each key that it changed, when all is as it will be
   * @returns {boolean} whether it changed what is held
   */
  apply(message, changed = () => {}) {
    if (!('offset' in message)) return false;
    const { type, channel, epoch, offset } = message;
    /** @type {Held} */
    const held = this.#channels.get(channel)
      ?? { epoch: undefined, synced: false, values: new Map(), forgotten: new Map(), removed: new Map(), ahead: new Map() };
    const { values, forgotten, removed } = held;
    this.#channels.set(channel, held);
    switch (type) {
      case 'publication': {
        const { time, key, data } = message;
        held.epoch ??= epoch;
        if (held.epoch !== epoch) {
          // A straggler of an old epoch, or the first of the one that a reset is about to tell.
          keepAhead(held.ahead, message);
          return false;
        }
        const before = this.held(channel, key);
        // One that a reset forgot and that another epoch counted has nothing to say about the order.
        const isKnown = before?.epoch === epoch && offset <= before.offset;
        // The snapshot brings the newest: what is older has overtaken nothing.
        if (isKnown && offset < before.offset) return false;
        const value = isKnown ? before : { epoch, offset, time, removed: message.removed, data };
        forgotten.delete(key);
        removed.delete(key);
        if (value.removed) values.delete(key);
        (value.removed ? removed : values).set(key, value);
        if (isKnown) return false;
        const [oldest = ''] = removed.keys();
        if (removed.size > MAX_REMOVED) removed.delete(oldest);
        this.newest = Math.max(this.newest, time);
        changed(key);
        return true;
      }
      case 'reset':
        for (const map of [values, removed]) {
          for (const [key, value] of map) {
            if (value.epoch === epoch && value.offset > offset) continue;
            map.delete(key);
            if (map === values) forgotten.set(key, value);
          }
        }
        held.epoch = epoch;
        held.synced = false;
        for (const one of takeAhead(held.ahead, message)) this.apply(one, changed);
        return false;
      case 'synced': {
        held.synced = true;
        const gone = [...forgotten.keys()];
        forgotten.clear();
        gone.forEach(changed);
        return gone.length > 0;
      }
      default: return false;
    }
  }

  /** @param {string} channel @param {string} key @returns {Value | undefined} what is known of it, a removal too */
  held(channel, key) {
    const { values, forgotten, removed } = this.#channels.get(channel) ?? {};
    return values?.get(key) ?? forgotten?.get(key) ?? removed?.get(key);
  }

  /** @param {string} channel @param {string} [key] @returns {unknown} undefined where the key holds nothing */
  get(channel, key = '') {
    return this.held(channel, key)?.data;
  }

  /** @param {string} channel @returns {boolean} whether a snapshot is complete */
  synced(channel) {
    return !!this.#channels.get(channel)?.synced;
  }

  /** @param {string} channel @returns {Generator<[key: string, value: Value]>} the keys that hold something */
  *entries(channel) {
    const { values = [], forgotten = [] } = this.#channels.get(channel) ?? {};
    yield* values;
    yield* forgotten;
  }
}
