/**
 * What state channels hold, put together from their messages on any transport (PROTOCOL.md, section 2).
 *
 * @typedef {{offset: number, time: number, removed: boolean, data?: unknown}} Value
 * @typedef {{epoch: string | null, synced: boolean, values: Map<string, Value>, removed: number}} Held
 */

/** Removed keys that are remembered in a channel, so that an older value that was overtaken does not bring them back. */
const MAX_REMOVED = 1024;

export class StateView {
  /** @type {Map<string, Held>} */
  #channels = new Map();
  /** The `time` of the newest publication applied; 0 before the first. */
  newest = 0;

  #held(channel) {
    let held = this.#channels.get(channel);
    if (!held) this.#channels.set(channel, (held = { epoch: null, synced: false, values: new Map(), removed: 0 }));
    return held;
  }

  /**
   * @param {import('./wire.js').Message} message publication, reset or synced of a state channel; others do nothing
   * @returns {boolean} whether it changed what is held
   */
  apply(message) {
    switch (message.type) {
      case 'publication': return this.#publication(message);
      case 'reset': return this.#reset(message);
      case 'synced':
        this.#held(message.channel).synced = true;
        return false;
      default: return false;
    }
  }

  /** @param {import('./wire.js').Message} message */
  #publication({ channel, epoch, offset, time, key, removed, data }) {
    const held = this.#held(channel);
    held.epoch ??= epoch;
    // A reset comes before anything of a new epoch, so this is a straggler of an old one.
    if (held.epoch !== epoch) return false;
    const before = held.values.get(key);
    if (before && offset <= before.offset) return false;
    if (before?.removed) held.removed--;
    if (removed) {
      // Set anew at the end: the map's order is then the order of the removals.
      held.values.delete(key);
      held.removed++;
    }
    held.values.set(key, { offset, time, removed, data });
    if (held.removed > MAX_REMOVED) forgetOldestRemoved(held);
    if (time > this.newest) this.newest = time;
    return true;
  }

  /** @param {import('./wire.js').Message} message */
  #reset({ channel, epoch, offset }) {
    const held = this.#held(channel);
    for (const [key, value] of held.values) {
      if (held.epoch === epoch && value.offset > offset) continue;
      held.values.delete(key);
      if (value.removed) held.removed--;
    }
    held.epoch = epoch;
    held.synced = false;
    return true;
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

function forgetOldestRemoved(held) {
  for (const [key, value] of held.values) {
    if (!value.removed) continue;
    held.values.delete(key);
    held.removed--;
    return;
  }
}
