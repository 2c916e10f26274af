/**
 * Which transport worked here last, remembered for some minutes: the next page does not wait once more for what does
 * not come through.
 *
 * @typedef {import('./fulmar.js').TransportName} TransportName
 */

export const VERDICT_MS = 5 * 60_000;

/** What is known of the network that the device is in; it changes when the device moves to another. */
function network() {
  const { type, effectiveType } = /** @type {any} */ (globalThis.navigator)?.connection ?? {};
  return [type, effectiveType].filter(Boolean).join(' ');
}

/** @type {Map<string, string>} where there is no storage: in node, in workers, and where pages may not store */
const memory = new Map();

/** @returns {{getItem(key: string): string | null | undefined, setItem(key: string, value: string): void,
 *   removeItem(key: string): void}} */
export function storage() {
  try {
    if (globalThis.localStorage) return globalThis.localStorage;
  } catch {
    // Storage is denied here.
  }
  return {
    getItem: (key) => memory.get(key),
    setItem: (key, value) => void memory.set(key, value),
    removeItem: (key) => void memory.delete(key),
  };
}


/** @param {string} key of the server and the transports that it is about @param {number} now ms since 1970 @returns {TransportName | null} */
export function recall(key, now) {
  try {
    const said = JSON.parse(storage().getItem(key) ?? 'null');
    if (said && said.network === network() && now - said.at < VERDICT_MS && now >= said.at) return said.transport;
  } catch {
    // What is stored is somebody else's, or cannot be read.
  }
  return null;
}

/** @param {string} key of the server and the transports that it is about @param {TransportName} transport that carries a connection @param {number} now */
export function remember(key, transport, now) {
  try {
    storage().setItem(key, JSON.stringify({ transport, at: now, network: network() }));
  } catch {
    // The storage is full or denied: the next page finds out by itself.
  }
}

/** The network is another one: nothing is known of it. @param {string} key */
export function forget(key) {
  try {
    storage().removeItem(key);
  } catch {
    // There was nothing then.
  }
}
