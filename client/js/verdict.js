/** What worked here last, remembered for a while: the next page does not wait once more for what does not come through. */
import { VERDICT_MS } from './limits.js';

/** The network that the device is in. How good it is just now makes it no other one. */
const network = () => /** @type {any} */ (globalThis.navigator)?.connection?.type;

/** @type {Map<string, string>} where there is no storage: in node, in workers, and where pages may not store */
const memory = new Map();

/**
 * @param {string} key @param {number} [now] ms since 1970 @param {number} [ms] for how long it holds
 * @returns {any} what was remembered in this network; null where nothing was
 */
export function recall(key, now = Date.now(), ms = VERDICT_MS) {
  /** @type {any} */
  let text = memory.get(key);
  try {
    text = localStorage.getItem(key);
  } catch {
    // There is none, or it is denied.
  }
  try {
    const { what, at, where } = JSON.parse(text);
    if (where === network() && now >= at && now - at < ms) return what;
  } catch {
    // What is stored is somebody else's, or there is nothing.
  }
  return null;
}

/** @param {string} key @param {unknown} what @param {number} [now] */
export function remember(key, what, now = Date.now()) {
  const text = JSON.stringify({ what, at: now, where: network() });
  memory.set(key, text);
  try {
    localStorage.setItem(key, text);
  } catch {
    // The storage is full or denied: the next page finds out by itself.
  }
}

/** @param {string} key */
export const forget = (key) => remember(key, null);
