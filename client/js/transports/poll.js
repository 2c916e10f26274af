/** Long-polling, and plain polling where `wait` is 0. */
import { pause } from '../backoff.js';
import { CloseCode, fromAnswer, retryAfter } from '../errors.js';
import { HttpConnection } from '../http.js';
import { fromJson } from '../json.js';

/**
 * @typedef {Parameters<typeof fromJson>[0]} Json
 * @typedef {{cursor: string, publications: Json[], control: Json[], more: boolean}} Answer
 */

class PollConnection extends HttpConnection {
  #wait;
  #interval;

  /** @param {import('../fulmar.js').Placed} options */
  constructor(options) {
    super('poll', options);
    this.#wait = options.wait ?? 25;
    this.quiet = this.#wait * 1000 + 10_000;
    this.#interval = options.interval ?? (this.#wait ? 0 : 1000);
  }

  /** @protected @param {AbortSignal} signal @param {() => void} joined @returns {Promise<import('../connection.js').Close>} */
  async run(signal, joined) {
    // The first request of a set of channels does not wait: its answer tells where reading begins.
    let wait = 0;
    for (;;) {
      const response = await this.get('/poll', signal, wait);
      const text = await response.text();
      if (signal.aborted) break;
      this.count(text);
      const answer = fromAnswer(text);
      for (const message of messagesOf(answer)) this.deliver(message);
      this.cursor = answer.cursor;
      joined();
      const retry = retryAfter(response);
      if (retry !== undefined) return { code: CloseCode.GOING_AWAY, reason: 'The server is stopping.', retry };
      wait = this.#wait;
      if (!answer.more && this.#interval) await pause(this.#interval, signal);
      if (signal.aborted) break;
    }
    return { code: CloseCode.NORMAL, reason: '' };
  }
}

/** The messages of an answer in their order: `synced` closes the publications of its channel, the others precede them. */
export function messagesOf(/** @type {Answer} */ { publications, control }) {
  const closes = (/** @type {Json} */ json) => json.type === 'synced';
  return [
    ...control.filter((json) => !closes(json)).map((json) => fromJson(json)),
    ...publications.map((json) => fromJson(json, 'publication')),
    ...control.filter(closes).map((json) => fromJson(json)),
  ];
}

/** @param {import('../fulmar.js').Placed} options */
export async function openPoll(options) {
  return new PollConnection(options);
}
