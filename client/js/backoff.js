/** How long a client waits before it comes back: exponential backoff with full jitter, which a sign of hope cuts short. */

/** The least of the upper bounds of a pause and the greatest, in ms. */
export const FIRST_PAUSE_MS = 500, MAX_PAUSE_MS = 30_000;
/** A connection that has held for so long was a good one: the pauses begin anew. */
export const STABLE_MS = 10_000;

/** What to wait for: nothing is known of the platform here but what is handed in. */
export class Backoff {
  #attempts = 0;
  #random;

  /** @param {() => number} [random] from 0 to below 1 */
  constructor(random = Math.random) {
    this.#random = random;
  }

  /**
   * @param {number} [asked] the delay that the server asked for, in ms: it is kept to, and is no failure
   * @returns {number} how long to wait now, in ms
   */
  next(asked) {
    if (asked !== undefined) return Math.min(Math.max(asked, 0), 2 ** 31 - 1);
    const bound = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(this.#attempts++, 16));
    return this.#random() * bound;
  }

  /** A connection held. */
  reset() {
    this.#attempts = 0;
  }
}

/**
 * Waits, until something says that it is worth another try.
 * @param {number} ms @param {AbortSignal} [signal] that ends the wait as well
 * @returns {Promise<void>}
 */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done);
    if (signal?.aborted) done();
  });
}
