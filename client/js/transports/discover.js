import { KNOWN_MS } from '../limits.js';
import told from '../place.js';
import { ask, urlOf } from '../request.js';
import { answerOf } from '../errors.js';
import { recall, remember } from '../verdict.js';

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
export async function discover(options) {
  return answerOf(await ask(options, '/connect', { signal: AbortSignal.timeout(10_000) }));
}

/** By what server this module was served with its place, until that was of no use. @type {string | null} */
let served = told && new URL('../place.js', import.meta.url).href;

/** No verdict has this key, not that of WebTransport alone either. @param {string} base */
const keyOf = (base) => `fulmar:${base} place`;

/** @param {string} base @returns {boolean} whether it is the server by whose place this client was served */
const isTold = (base) => served === urlOf(base, '/client/place.js');

/** @param {string} base @returns {Discovery['webtransport'] | null | false} where WebTransport is or was, by what is known here; false where a guess was in vain */
export const known = (base) => (isTold(base) ? /** @type {Discovery} */ (told).webtransport : recall(keyOf(base), Date.now(), KNOWN_MS));

/**
 * Where WebTransport may well be: at the same name and port over UDP, with the same certificate. One of a development server is
 * self-signed, and so is that of a server without TLS: there a guess is of no use. As the server writes it, so that the two compare.
 * @param {string} base @returns {Discovery['webtransport'] | null}
 */
export function guessed(base) {
  const [, host, port = ':443'] = /^(https:\/\/[\w.-]+\.(?!localhost)[a-z][\w-]*)(:\d+)?\/*$/.exec(base) ?? [];
  return host ? { certificate_hashes: [], url: `${host + port}/wt` } : null;
}

/** @param {string} base @param {Discovery['webtransport'] | null | false} place where WebTransport has opened; null where it is not any more, false where a guess is of no use either */
export function know(base, place) {
  // A certificate may have been renewed since the page was loaded.
  if (!place && isTold(base)) served = null;
  remember(keyOf(base), place);
}
