import { errorOf, fromAnswer } from '../errors.js';
import { unreachable, urlOf } from '../posting.js';
import { storage } from '../verdict.js';

/** For how long WebTransport is dialled where it opened before, without asking. */
export const KNOWN_MS = 24 * 60 * 60_000;

/**
 * @typedef {object} Discovery
 * @property {{url: string, certificate_hashes?: {algorithm: string, value: string}[]}} webtransport
 * @property {{url: string}} websocket
 * @property {{url: string}} sse
 * @property {{url: string}} poll
 */

/**
 * Where the server's transports are, by its own word (`GET /connect`).
 * @param {import('../fulmar.js').Placed} options
 * @returns {Promise<Discovery>}
 */
export async function discover({ base, fetch = globalThis.fetch }) {
  let response;
  try {
    response = await fetch(urlOf(base, '/connect'), { cache: 'no-store', signal: AbortSignal.timeout(10_000) });
  } catch (cause) {
    throw unreachable(base, cause);
  }
  if (!response.ok) throw await errorOf(response);
  return fromAnswer(await response.text());
}

/** No verdict has this key, not that of WebTransport alone either. @param {string} base */
const keyOf = (base) => `fulmar:${base} place`;

/** @param {string} base @returns {Discovery['webtransport'] | null} where WebTransport opened before */
export function known(base) {
  try {
    const { at, place } = JSON.parse(storage().getItem(keyOf(base)) ?? '{}');
    const age = Date.now() - at;
    if (age >= 0 && age < KNOWN_MS) return place;
  } catch {
    // What is stored is somebody else's, or cannot be read.
  }
  return null;
}

/** @param {string} base @param {Discovery['webtransport'] | null} place where WebTransport has opened; null where it is not any more */
export function know(base, place) {
  try {
    if (place) storage().setItem(keyOf(base), JSON.stringify({ at: Date.now(), place }));
    else storage().removeItem(keyOf(base));
  } catch {
    // The storage is full or denied: the next page asks again.
  }
}
