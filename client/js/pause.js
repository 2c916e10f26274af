import { within } from './errors.js';

/**
 * Waits, until something says that it is worth another try.
 * @param {number} ms @param {Promise<unknown>} [until] settled where the wait ends sooner
 * @returns {Promise<unknown>}
 */
export const pause = (ms, until = new Promise(() => {})) => within(ms, until).catch(() => {});
