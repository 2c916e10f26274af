/** Long-polling, and plain polling where `wait` is 0. */
import { GOING_AWAY } from '../codes.js';
import { pause } from '../pause.js';
import { answerOf, retryAfter } from '../errors.js';
import { HttpConnection } from '../http.js';
import { fromJson } from '../json.js';

/**
 * @typedef {Parameters<typeof fromJson>[0]} Json
 * @typedef {{cursor: string, publications: Json[], control: Json[], more: boolean}} Answer
 */

/** @param {import('../fulmar.js').Placed} options */
export async function openPoll(options) {
  const { wait = 25, interval = wait ? 0 : 1000 } = options;
  return new HttpConnection('poll', options, async (connection, signal, joined) => {
    // The first request of a set of channels does not wait: its answer tells where reading begins.
    for (let patience = 0; ; patience = wait) {
      const { more, retry } = await poll(connection, signal, patience);
      joined();
      if (retry !== undefined) return { code: GOING_AWAY, reason: 'The server is stopping.', retry };
      if (!more && interval) await pause(interval, new Promise((resolve) => (signal.onabort = resolve)));
    }
  }, wait * 1000 + 10_000);
}

/**
 * Asks once, and hands over what comes; throws where `signal` is aborted.
 * @param {import('../http.js').Inner} connection @param {AbortSignal} signal @param {number} [wait]
 * @returns {Promise<{more: boolean, retry?: number}>}
 */
export async function poll(connection, signal, wait) {
  const response = await connection.get('/poll', signal, wait);
  /** @type {Answer} */
  const { cursor, publications, control, more } = await answerOf(response, (text) => connection.count(text));
  signal.throwIfAborted();
  // `synced` closes the publications of its channel, the others precede them.
  const closes = (/** @type {Json} */ { type }) => type === 'synced';
  for (const json of [
    ...control.filter((each) => !closes(each)),
    ...publications.map((each) => ({ ...each, type: 'publication' })),
    ...control.filter(closes),
  ]) connection.deliver(fromJson(json));
  connection.follow(cursor);
  return { more, retry: retryAfter(response) };
}
