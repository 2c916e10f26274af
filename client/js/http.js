/** What SSE and poll share: one request for all channels, the server's cursor, and publishing by a session. */
import { CloseCode, FulmarError, closeFor, closedError, errorOf } from './errors.js';
import { Connection } from './connection.js';
import { buildCursor, cursorFor, mergeCursors } from './cursor.js';
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

/** @abstract */
export class HttpConnection extends Connection {
  /** The last cursor that the server gave, over all channels. @type {string | null} */
  cursor = null;
  /** @protected @type {Set<string>} */
  channels = new Set();
  /** @protected @type {string} */
  base;
  /** @protected @type {(url: string, init?: RequestInit) => Promise<Response>} */
  fetch;
  /** @type {Promise<{secret: string}> | null} */
  #session = null;
  /** @type {AbortController | null} */
  #request = null;
  /** @type {{resolve: () => void, reject: (error: unknown) => void}[]} */
  #joining = [];
  #scheduled = false;

  /** @param {string} transport @param {import('./fulmar.js').Options} options */
  constructor(transport, { base, fetch = globalThis.fetch }) {
    super(transport, 'json');
    this.base = base;
    // A page's fetch insists on being called without a receiver.
    this.fetch = (url, init) => fetch(url, init);
  }

  /**
   * Joins a channel to the request: all that are subscribed in one turn go on one request, and a later one has the
   * request made anew from the cursor.
   * Where the server refuses a channel it refuses the request, and the connection ends with it.
   * @param {string} channel @param {import('./connection.js').From} [from]
   */
  async subscribe(channel, { after, position } = {}) {
    if (!this.open) throw new FulmarError('closed', 'The connection is closed.');
    if (this.channels.has(channel)) {
      throw new FulmarError('already_subscribed', `The connection has ${channel} already.`);
    }
    const from = position ? buildCursor([{ channel, ...position }]) : after;
    if (from) this.cursor = mergeCursors(this.cursor, from);
    this.channels.add(channel);
    await this.#change();
    return { type: 'subscribed', channel };
  }

  /** @param {string} channel */
  async unsubscribe(channel) {
    if (this.channels.delete(channel)) await this.#change();
  }

  /** @returns {Promise<void>} settled when a request with the channels as they are now has been answered */
  #change() {
    if (!this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(() => {
        this.#scheduled = false;
        this.#restart();
      });
    }
    return new Promise((resolve, reject) => this.#joining.push({ resolve, reject }));
  }

  async #restart() {
    this.#request?.abort();
    if (!this.open) return;
    const joining = new Set(this.#joining);
    const joined = () => {
      for (const { resolve } of joining) resolve();
      this.#joining = this.#joining.filter((waiting) => !joining.has(waiting));
    };
    if (!this.channels.size) return joined();
    const { signal } = (this.#request = new AbortController());
    const end = await this.run(signal, joined).catch(closeFor);
    // A request that was replaced leaves those who still wait to the one that replaced it.
    if (!signal.aborted) this.finish(end);
  }

  /**
   * Reads the channels on from the cursor until the server ends it or `signal` is aborted.
   * @protected @abstract
   * @param {AbortSignal} signal @param {() => void} joined to be called when the server has taken the channels
   * @returns {Promise<import('./connection.js').Close>}
   */
  async run(signal, joined) {
    throw new Error('abstract');
  }

  /** @protected @param {string} path @param {AbortSignal} signal @param {number} [wait] */
  async get(path, signal, wait) {
    const url = urlOf(this.base, path, {
      channels: this.channels, after: cursorFor(this.cursor, this.channels), wait,
    });
    const response = await this.fetch(url, { signal, cache: 'no-store' });
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  /** @protected @param {Uint8Array | string} part */
  count(part) {
    this.received.bytes += part.length;
  }

  /**
   * Publishes as a session, which is made for the first publication and again when the server has forgotten it.
   * @param {string} channel @param {import('./connection.js').Content} content
   * @returns {Promise<{epoch: string, offset: number}>}
   */
  async publish(channel, content) {
    if (!this.open) throw new FulmarError('closed', 'The connection is closed.');
    const message = toJson({ type: 'publish', channel, ...content });
    const known = this.#session !== null;
    try {
      return await this.#send(message);
    } catch (error) {
      if (!known || error.status !== 401) throw error;
      this.#session = null;
      return this.#send(message);
    }
  }

  async #send(message) {
    this.#session ??= this.#post('/session', {});
    let secret;
    try {
      ({ secret } = await this.#session);
    } catch (error) {
      this.#session = null;
      throw error;
    }
    return this.#post('/send', message, { authorization: `Bearer ${secret}` });
  }

  async #post(path, body, headers = {}) {
    const response = await this.fetch(urlOf(this.base, path), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(15_000),
    });
    if (!response.ok) throw await errorOf(response);
    return response.json();
  }

  /** @param {number} [code] @param {string} [reason] nobody is told: the request just ends */
  close(code = CloseCode.NORMAL, reason = '') {
    this.finish({ code, reason });
  }

  /** @protected @param {import('./connection.js').Close} close */
  release(close) {
    this.#request?.abort();
    const error = close.error ?? closedError(close);
    for (const { reject } of this.#joining.splice(0)) reject(error);
  }
}
