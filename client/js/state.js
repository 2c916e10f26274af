/**
 * What state channels hold, put together from their messages on any transport (PROTOCOL.md, section 2).
 *
 * A snapshot replaces what is held value by value, so that no key is missing for a moment: what a `reset` forgets is
 * shown on until the snapshot has brought its key anew, or has come to its end without it.
 */

/**
 * @typedef {object} Value
 * @property {string} epoch
 * @property {number} offset
 * @property {number} time
 * @property {boolean} removed
 * @property {unknown} [data]
 * @property {number} snapshot the count of resets it has survived or come after; of those before it is only shown
 * @typedef {{epoch: string | null, synced: boolean, snapshot: number, values: Map<string, Value>, removed: number}} Held
 */

/** Removed keys that are remembered in a channel, so that an older value that was overtaken does not bring them back. */
const MAX_REMOVED = 1024;

export class StateView {
  /** @type {Map<string, Held>} */
  #channels = new Map();
  /** The `time` of the newest publication applied; 0 before the first. */
  newest = 0;

  /** @param {string} channel @returns {Held} */
  #held(channel) {
    let held = this.#channels.get(channel);
    if (!held) {
      held = { epoch: null, synced: false, snapshot: 0, values: new Map(), removed: 0 };
      this.#channels.set(channel, held);
    }
    return held;
  }

  /**
   * @param {import('./wire.js').Message} message publication, reset or synced of a state channel; others do nothing
   * @param {(key: string) => void} [changed] is told each key that it changed, when all is as it will be
   * @returns {boolean} whether it changed what is held
   */
  apply(message, changed) {
    switch (message.type) {
      case 'publication': {
        const isNew = this.#publication(message);
        if (isNew) changed?.(message.key);
        return isNew;
      }
      case 'reset': return this.#reset(message);
      case 'synced': return this.#synced(message, changed);
      default: return false;
    }
  }

  /** @param {import('./wire.js').Publication} message */
  #publication({ channel, epoch, offset, time, key, removed, data }) {
    const held = this.#held(channel);
    held.epoch ??= epoch;
    // A reset comes before anything of a new epoch, so this is a straggler of an old one.
    if (held.epoch !== epoch) return false;
    const before = held.values.get(key);
    // One that a reset forgot and that another epoch counted has nothing to say about the order.
    if (before && before.epoch === epoch && offset <= before.offset) {
      if (offset === before.offset) before.snapshot = held.snapshot;
      return false;
    }
    if (before?.removed) held.removed--;
    if (removed) {
      // Set anew at the end: the map's order is then the order of the removals.
      held.values.delete(key);
      held.removed++;
    }
    held.values.set(key, { epoch, offset, time, removed, data, snapshot: held.snapshot });
    if (held.removed > MAX_REMOVED) forgetOldestRemoved(held);
    if (time > this.newest) this.newest = time;
    return true;
  }

  /** @param {import('./wire.js').Reset} message */
  #reset({ channel, epoch, offset }) {
    const held = this.#held(channel);
    const before = held.snapshot++;
    for (const [key, value] of held.values) {
      if (value.snapshot === before && value.epoch === epoch && value.offset > offset) value.snapshot = held.snapshot;
      else if (value.removed) {
        held.values.delete(key);
        held.removed--;
      }
    }
    held.epoch = epoch;
    held.synced = false;
    return false;
  }

  /** @param {import('./wire.js').Synced} message @param {(key: string) => void} [changed] */
  #synced({ channel }, changed) {
    const held = this.#held(channel);
    const gone = [...held.values].filter(([, { snapshot }]) => snapshot < held.snapshot).map(([key]) => key);
    for (const key of gone) held.values.delete(key);
    held.synced = true;
    if (changed) gone.forEach(changed);
    return gone.length > 0;
  }

  /** @param {string} channel @param {string} key @returns {Value | undefined} what is known of it, a removal too */
  held(channel, key) {
    return this.#channels.get(channel)?.values.get(key);
  }

  /** @param {string} channel @param {string} [key] @returns {unknown} undefined where the key holds nothing */
  get(channel, key = '') {
    const value = this.#channels.get(channel)?.values.get(key);
    return value?.removed ? undefined : value?.data;
  }

  /** @param {string} channel @returns {boolean} whether a snapshot is complete */
  synced(channel) {
    return this.#channels.get(channel)?.synced ?? false;
  }

  /** @param {string} channel @returns {Generator<[key: string, value: Value]>} the keys that hold something */
  *entries(channel) {
    for (const entry of this.#channels.get(channel)?.values ?? []) if (!entry[1].removed) yield entry;
  }
}

/** @param {Held} held */
function forgetOldestRemoved(held) {
  for (const [key, value] of held.values) {
    if (!value.removed) continue;
    held.values.delete(key);
    held.removed--;
    return;
  }
}
