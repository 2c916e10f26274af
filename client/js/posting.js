/** Requests over HTTP, and publishing by them with the secret of a session. */
import { FulmarError, answerOf, isPassing, unreachable } from './errors.js';
import { Connection } from './connection.js';
import { toBase64 } from './json.js';

/** @typedef {{channels?: Iterable<string>, after?: string | null, wait?: number}} Query */

/** @param {string} base @param {string} path @param {Query} [query] @returns {string} */
export function urlOf(base, path, { channels = [], after, wait } = {}) {
  const query = new URLSearchParams(Array.from(channels, (channel) => ['channel', channel]));
  if (after) query.set('after', after);
  if (wait) query.set('wait', String(wait));
  return `${base.replace(/\/+$/, '')}${path}?${query}`.replace(/\?$/, '');
}

/**
 * @param {import('./fulmar.js').Placed} where @param {string} path @param {RequestInit} init @param {Query} [query]
 * @returns {Promise<Response>} that is no error
 */
export async function ask({ base, fetch = globalThis.fetch }, path, init, query) {
  const response = await fetch(urlOf(base, path, query), { cache: 'no-store', ...init }).catch((cause) => {
    throw unreachable(`No answer from ${base}: does it allow this origin?`, cause);
  });
  if (!response.ok) await answerOf(response);
  return response;
}

/** @abstract */
export class PostingConnection extends Connection {
  /** @protected */
  options;
  /** Of the session that publishes; the server makes one where there is none. @type {string | undefined} */
  #secret;
  /** Settled when the session is there. @type {Promise<unknown> | null} */
  #session = null;
  /** Settled when the publications before have been answered: requests at once would arrive in any order. */
  #publishing = Promise.resolve();
  /** Of publications: one that came to nothing fails those behind it, or they would overtake it when it is repeated. */
  #turn = 0;

  /** @param {import('./fulmar.js').TransportName} transport @param {import('./fulmar.js').Placed} options */
  constructor(transport, options) {
    super(transport, 'json');
    this.options = options;
  }

  /** Who the client is, from now on: to be said before it subscribes. @param {string} secret of its session */
  identify(secret) {
    this.#secret = secret;
  }

  /**
   * Publishes as a session, which is made for the first publication and again when the server has forgotten it.
   * @param {string} channel @param {import('./connection.js').Content} content
   * @returns {Promise<{epoch: string, offset: number}>}
   */
  publish(channel, content) {
    const turn = this.#turn;
    const published = this.#publishing.then(() => this.#publish(channel, content, turn));
    this.#publishing = published.then(() => {}, (error) => {
      if (turn === this.#turn && !(error instanceof FulmarError && !isPassing(error))) this.#turn++;
    });
    return published;
  }

  /** @param {string} channel @param {import('./connection.js').Content} content @param {number} turn */
  async #publish(channel, content, turn) {
    if (turn !== this.#turn) throw unreachable('What was sent before did not arrive: send it again.');
    this.mustBeOpen();
    const { data, key, ...rest } = content;
    const payload = data instanceof Uint8Array ? { b64: toBase64(data) } : { data };
    const message = { type: 'publish', channel, ...rest, ...payload, key: key || undefined };
    for (let known = this.#session; ; known = null) {
      try {
        // The secret makes the same session again, and with it the ids of what it has published.
        await (this.#session ??= this.#post('/session', {}).then(({ secret }) => (this.#secret ??= secret)));
      } catch (error) {
        this.#session = null;
        throw error;
      }
      try {
        return await this.#post('/send', message);
      } catch (error) {
        if (!known || !(error instanceof FulmarError) || error.status !== 401) throw error;
        this.#session = null;
      }
    }
  }

  /** @param {string} path @param {unknown} content */
  async #post(path, content) {
    const body = JSON.stringify(content);
    this.received.sent += body.length;
    return answerOf(await ask(this.options, path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(this.#secret && { authorization: `Bearer ${this.#secret}` }) },
      body,
      signal: AbortSignal.timeout(15_000),
    }));
  }
}
