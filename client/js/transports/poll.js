/** Long-polling, and plain polling where `wait` is 0. */
import { CloseCode, retryAfter } from '../errors.js';
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
      const more = this.#answer(JSON.parse(text));
      joined();
      const retry = retryAfter(response);
      if (retry !== undefined) return { code: CloseCode.GOING_AWAY, reason: 'The server is stopping.', retry };
      wait = this.#wait;
      if (!more && this.#interval) await sleep(this.#interval, signal);
      if (signal.aborted) break;
    }
    return { code: CloseCode.NORMAL, reason: '' };
  }

  /** @param {Answer} answer @returns {boolean} whether there is more at once */
  #answer({ cursor, publications, control, more }) {
    // `synced` closes the publications of its channel, the others precede them.
    for (const json of control) if (json.type !== 'synced') this.deliver(fromJson(json));
    for (const json of publications) this.deliver(fromJson(json, 'publication'));
    for (const json of control) if (json.type === 'synced') this.deliver(fromJson(json));
    this.cursor = cursor;
    return more;
  }
}

/** @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} */
function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
    function done() {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
  });
}

/** @param {import('../fulmar.js').Placed} options */
export async function openPoll(options) {
  return new PollConnection(options);
}
