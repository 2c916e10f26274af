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
 * @property {number} snapshot the count of resets it has survived or come after; of those before it is only shown
 * @typedef {object} Held
 * @property {string | undefined} epoch
 * @property {boolean} synced
 * @property {number} snapshot
 * @property {Map<string, Value>} values
 * @property {number} removed how many of the values are removals
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
      ?? { epoch: undefined, synced: false, snapshot: 0, values: new Map(), removed: 0, ahead: new Map() };
    const { values } = held;
    this.#channels.set(channel, held);
    /** @param {string} key */
    const remove = (key) => {
      if (values.get(key)?.removed) held.removed--;
      values.delete(key);
    };
    switch (type) {
      case 'publication': {
        const { time, key, removed, data } = message;
        held.epoch ??= epoch;
        if (held.epoch !== epoch) {
          // A straggler of an old epoch, or the first of the one that a reset is about to tell.
          keepAhead(held.ahead, message);
          return false;
        }
        const before = values.get(key);
        // One that a reset forgot and that another epoch counted has nothing to say about the order.
        if (before?.epoch === epoch && offset <= before.offset) {
          if (offset === before.offset) before.snapshot = held.snapshot;
          return false;
        }
        // Removals are set anew at the end: the map's order is then theirs.
        if (removed || before?.removed) remove(key);
        if (removed) held.removed++;
        values.set(key, { epoch, offset, time, removed, data, snapshot: held.snapshot });
        if (held.removed > MAX_REMOVED) {
          for (const [oldest, value] of values) {
            if (!value.removed) continue;
            remove(oldest);
            break;
          }
        }
        this.newest = Math.max(this.newest, time);
        changed(key);
        return true;
      }
      case 'reset': {
        const before = held.snapshot++;
        for (const [key, value] of values) {
          if (value.snapshot === before && value.epoch === epoch && value.offset > offset) value.snapshot++;
          else if (value.removed) remove(key);
        }
        held.epoch = epoch;
        held.synced = false;
        for (const one of takeAhead(held.ahead, message)) this.apply(one, changed);
        return false;
      }
      case 'synced': {
        held.synced = true;
        const gone = [...values].filter(([, { snapshot }]) => snapshot < held.snapshot).map(([key]) => key);
        gone.forEach(remove);
        gone.forEach(changed);
        return gone.length > 0;
      }
      default: return false;
    }
  }

  /** @param {string} channel @param {string} key @returns {Value | undefined} what is known of it, a removal too */
  held(channel, key) {
    return this.#channels.get(channel)?.values.get(key);
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
    for (const entry of this.#channels.get(channel)?.values ?? []) if (!entry[1].removed) yield entry;
  }
}
