/** A state channel as a live map: the newest value of each key, and an event for each that changes. */
import { FulmarError, deferred, guarded } from './errors.js';

/**
 * @typedef {object} Change
 * @property {string} key
 * @property {unknown} value undefined where the key was removed
 * @property {unknown} previous undefined where the key is new
 * @property {boolean} removed
 * @property {number} time of the publication, in ms since 1970; NaN where a snapshot came without the key
 */

/** @implements {Iterable<[string, unknown]>} */
export class LiveState {
  #channel;
  /** @type {Map<string, unknown>} */
  #values = new Map();
  /** @type {Set<(change: Change) => void>} */
  #listeners = new Set();
  #synced = false;
  #ended = false;
  /** It wants all values, and no iterator waits for them. @package */
  whole = true;
  /** @package */
  full = false;
  #whole = deferred();
  /** Settled when the first snapshot is complete; rejects where the server refuses the channel, and where it is closed before. @type {Promise<void>} */
  ready = this.#whole.promise;

  /** @package @param {import('./channel.js').Channel} channel */
  constructor(channel) {
    this.#channel = channel;
  }

  /** The channel's name. */
  get channel() {
    return this.#channel.name;
  }

  /** Whether all keys are there. What is held stays while a later snapshot is under way. */
  get synced() {
    return this.#synced;
  }

  get size() {
    return this.#values.size;
  }

  /** @param {string} [key] */
  get(key = '') {
    return this.#values.get(key);
  }

  /** @param {string} [key] */
  has(key = '') {
    return this.#values.has(key);
  }

  keys() {
    return this.#values.keys();
  }

  values() {
    return this.#values.values();
  }

  entries() {
    return this.#values.entries();
  }

  /** @param {(value: unknown, key: string, state: LiveState) => void} each */
  forEach(each) {
    this.#values.forEach((value, key) => each(value, key, this));
  }

  [Symbol.iterator]() {
    return this.#values.entries();
  }

  /**
   * @param {(change: Change) => void} listener called for each key that changes, when it has
   * @returns {() => void} ends it
   */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Nothing changes here any more. What is held stays to be read. */
  close() {
    this.end();
    this.#channel.leave(this);
  }

  /**
   * @package @param {import('./wire.js').InChannel} message @param {import('./state.js').StateView | null} view that it was applied to
   * @param {boolean} isNews whether it changed that
   */
  deliver(message, view, isNews) {
    // What precedes the first snapshot comes again behind its beginning.
    if (!view) return;
    if (message.type === 'publication') {
      if (isNews) this.#change(message);
    } else if (message.type === 'synced') {
      for (const key of this.#values.keys()) {
        if (!view.held(message.channel, key) && !this.#ended) this.#change({ key, removed: true, time: NaN });
      }
      this.#synced = true;
      this.#whole.resolve();
    }
  }

  /** @param {{key: string, data?: unknown, removed: boolean, time: number}} publication */
  #change({ key, data: value, removed, time }) {
    const previous = this.#values.get(key);
    if (!removed) this.#values.set(key, value);
    else if (!this.#values.delete(key)) return;
    for (const listener of this.#listeners) guarded(listener, { key, value, previous, removed, time });
  }

  /** @package */
  accepted() {}

  /** @package @param {Error} [error] */
  end(error) {
    this.#whole.reject(error ?? new FulmarError('closed', 'The state was closed before it was complete.'));
    this.#listeners.clear();
    this.#ended = true;
  }
}
