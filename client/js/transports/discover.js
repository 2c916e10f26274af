import { KNOWN_MS } from '../limits.js';
import { ask } from '../posting.js';
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

/** No verdict has this key, not that of WebTransport alone either. @param {string} base */
const keyOf = (base) => `fulmar:${base} place`;

/** @param {string} base @returns {Discovery['webtransport'] | null} where WebTransport opened before */
export const known = (base) => recall(keyOf(base), Date.now(), KNOWN_MS);

/** @param {string} base @param {Discovery['webtransport'] | null} place where WebTransport has opened; null where it is not any more */
export const know = (base, place) => remember(keyOf(base), place);
