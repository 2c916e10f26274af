/** Long-polling, and plain polling where `wait` is 0. */
import { GOING_AWAY, NORMAL } from '../codes.js';
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
  const poll = new HttpConnection('poll', options, async (connection, signal, joined) => {
    // The first request of a set of channels does not wait: its answer tells where reading begins.
    let patience = 0;
    while (!signal.aborted) {
      const response = await connection.get('/poll', signal, patience);
      /** @type {Answer} */
      const answer = await answerOf(response, (text) => connection.count(text));
      if (signal.aborted) break;
      for (const message of messagesOf(answer)) connection.deliver(message);
      connection.cursor = answer.cursor;
      joined();
      const retry = retryAfter(response);
      if (retry !== undefined) return { code: GOING_AWAY, reason: 'The server is stopping.', retry };
      patience = wait;
      if (!answer.more && interval) await pause(interval, signal);
    }
    return { code: NORMAL, reason: '' };
  });
  poll.quiet = wait * 1000 + 10_000;
  return poll;
}

/** The messages of an answer in their order: `synced` closes the publications of its channel, the others precede them. */
export function messagesOf(/** @type {Answer} */ { publications, control }) {
  const closes = (/** @type {Json} */ { type }) => type === 'synced';
  return [
    ...control.filter((json) => !closes(json)),
    ...publications.map((json) => ({ ...json, type: 'publication' })),
    ...control.filter(closes),
  ].map((json) => fromJson(json));
}
