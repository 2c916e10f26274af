import { FulmarError, errorOf } from '../errors.js';
import { urlOf } from '../posting.js';

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
    throw new FulmarError('unreachable', `No answer from ${base}.`, { cause });
  }
  if (!response.ok) throw await errorOf(response);
  return response.json();
}
