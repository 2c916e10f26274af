/** How long a client waits before it comes back: exponential backoff with full jitter, which a sign of hope cuts short. */

/** The least of the upper bounds of a pause and the greatest, in ms. */
export const FIRST_PAUSE_MS = 500, MAX_PAUSE_MS = 30_000;
/** A connection that has held for so long was a good one: the pauses begin anew. */
export const STABLE_MS = 10_000;

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
