/** Publishing over HTTP, by requests with the secret of a session. */
import { FulmarError, errorOf, fromAnswer, isPassing } from './errors.js';
import { Connection } from './connection.js';
import { toJson } from './json.js';

/**
 * @param {string} base @param {string} path
 * @param {{channels?: Iterable<string>, after?: string | null, wait?: number}} [query]
 * @returns {string}
 */
export function urlOf(base, path, { channels = [], after, wait } = {}) {
  const query = new URLSearchParams();
  for (const channel of channels) query.append('channel', channel);
  if (after) query.append('after', after);
  if (wait) query.append('wait', String(wait));
  const text = query.toString();
  return `${base.replace(/\/+$/, '')}${path}${text ? `?${text}` : ''}`;
}

/** @param {string} base @param {unknown} cause */
export const unreachable = (base, cause) => new FulmarError(
  'unreachable', `No answer from ${base}: does the server run, and does it allow this page's origin?`, { cause });

/** @abstract */
export class PostingConnection extends Connection {
  /** @protected @type {string} */
  base;
  /** @protected @type {(url: string, init?: RequestInit) => Promise<Response>} */
  fetch;
  /** Of the session that publishes; the server makes one where there is none. @type {string | null} */
  #secret = null;
  /** Settled when the session is there. @type {Promise<unknown> | null} */
  #session = null;
  /** Settled when the publications before have been answered: requests at once would arrive in any order. */
  #publishing = Promise.resolve();
  /** Of publications: one that came to nothing fails those behind it, or they would overtake it when it is repeated. */
  #turn = 0;

  /** @param {import('./fulmar.js').TransportName} transport @param {import('./fulmar.js').Placed} options */
  constructor(transport, { base, fetch = globalThis.fetch }) {
    super(transport, 'json');
    this.base = base;
    // A page's fetch insists on being called without a receiver.
    this.fetch = (url, init) => fetch(url, init).catch((cause) => {
      throw unreachable(base, cause);
    });
  }

  /** @param {string} secret */
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
    if (turn !== this.#turn) throw new FulmarError('unreachable', 'One before it did not arrive, so it was not sent: publish it again.');
    if (!this.open) throw new FulmarError('closed', 'The connection is closed: open another.');
    const message = toJson({ type: 'publish', channel, ...content });
    const known = this.#session !== null;
    try {
      return await this.#send(message);
    } catch (error) {
      if (!known || !(error instanceof FulmarError) || error.status !== 401) throw error;
      this.#session = null;
      return this.#send(message);
    }
  }

  /** @param {Record<string, unknown>} message */
  async #send(message) {
    this.#session ??= this.#makeSession();
    try {
      await this.#session;
    } catch (error) {
      this.#session = null;
      throw error;
    }
    return this.#post('/send', message, this.#bearer());
  }

  /** The secret makes the same session again, and with it the ids of what it has published. */
  async #makeSession() {
    const { secret } = await this.#post('/session', {}, this.#bearer());
    this.#secret ??= secret;
  }

  /** @returns {Record<string, string>} */
  #bearer() {
    return this.#secret ? { authorization: `Bearer ${this.#secret}` } : {};
  }

  /** @param {string} path @param {unknown} content @param {Record<string, string>} [headers] */
  async #post(path, content, headers = {}) {
    const body = JSON.stringify(content);
    this.received.sent += body.length;
    const response = await this.fetch(urlOf(this.base, path), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body,
      signal: AbortSignal.timeout(15_000),
    });
    if (!response.ok) throw await errorOf(response);
    return fromAnswer(await response.text());
  }
}
