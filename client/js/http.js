/** What SSE and poll share: one request for all channels, and publishing by requests with the secret of a session. */
import { MAX_CURSOR_CHANNELS } from './limits.js';
import { FulmarError, answerOf, closeFor, closedError, deferred, isPassing } from './errors.js';
import { entryFrom, formatCursor, parseCursor } from './cursor.js';
import { Connection } from './connection.js';
import { toBase64 } from './json.js';
import { ask } from './request.js';

/**
 * @typedef {object} Inner what a connection is to what reads for it
 * @property {(close: import('./connection.js').Close) => void} finish
 * @property {(message: import('./wire.js').Message) => void} deliver
 * @property {(part: Uint8Array | string) => void} count
 * @property {(cursor: string) => void} follow
 * @property {(path: string, signal: AbortSignal, wait?: number) => Promise<Response>} get
 *
 * @callback Run reads the channels on from where they are until the server ends it or `signal` is aborted
 * @param {Inner} connection
 * @param {AbortSignal} signal
 * @param {() => void} joined to be called when the server has taken the channels
 * @returns {Promise<import('./connection.js').Close>}
 */

export class HttpConnection extends Connection {
  /** Called with what has come of the server. @package @type {((part: Uint8Array | string) => void) | null} */
  onpart = null;
  /** @type {AbortController | null} */
  #request = null;
  /** @type {Set<{channel?: string, resolve: () => void, reject: (error: unknown) => void}>} */
  #joining = new Set();
  #scheduled = false;
  /** The server's last cursor. */
  #told = '';
  /** Of the session that publishes; the server makes one where there is none. @type {string | undefined} */
  #secret;
  /** Whether the session is there. */
  #session = false;
  /**
   * Settled when the publications before have been answered: requests at once would arrive in any order. One that came to
   * nothing fails those behind it, or they would overtake it when it is repeated.
   * @type {Promise<unknown>}
   */
  #publishing = Promise.resolve();

  /**
   * @package @param {import('./fulmar.js').TransportName} transport @param {import('./fulmar.js').Placed} options @param {Run} run
   * @param {number} quiet
   */
  constructor(transport, options, run, quiet) {
    super(transport, 'json');
    /** @protected */
    this.options = options;
    /** @package */
    this.run = run;
    this.quiet = quiet;
  }

  /** Who the client is, from now on: to be said before it subscribes. @param {string} secret of its session */
  identify(secret) {
    this.#secret = secret;
  }

  /**
   * Joins a channel to the request: all that are subscribed in one turn go on one request, and a later one has the
   * request made anew from where they are.
   * A server that refuses a channel refuses the request, so each is then asked for by itself, and the others go on.
   * @param {string} channel @param {import('./connection.js').From} [from]
   * @returns {Promise<{type: 'subscribed', channel: string}>}
   */
  async subscribe(channel, from = {}) {
    this.mustLack(channel);
    // Where all of them stand must go in one cursor.
    if (this.receiver.channels.size >= MAX_CURSOR_CHANNELS) {
      throw new FulmarError('too_many_channels', `SSE and polling read ${MAX_CURSOR_CHANNELS} channels: unsubscribe from some.`);
    }
    this.#settle();
    this.receiver.begin(channel, entryFrom(channel, from));
    await this.#change(channel);
    return { type: 'subscribed', channel };
  }

  /** @param {string} channel */
  async unsubscribe(channel) {
    if (!this.receiver.forget(channel)) return;
    await this.#change();
  }

  /** By asking anew: the server says something at once. */
  probe() {
    this.#change();
    return true;
  }

  /**
   * @param {string} [channel] that joins
   * @returns {Promise<void>} settled when a request with the channels as they are now has been answered
   */
  #change(channel) {
    if (!this.#scheduled) queueMicrotask(() => this.#restart());
    this.#scheduled = true;
    const { promise, ...waiting } = deferred();
    this.#joining.add({ channel, ...waiting });
    return promise;
  }

  async #restart() {
    this.#scheduled = false;
    this.#request?.abort();
    if (!this.open) return;
    const joining = [...this.#joining];
    const joined = () => {
      for (const waiting of joining) {
        waiting.resolve();
        this.#joining.delete(waiting);
      }
    };
    if (!this.receiver.channels.size) {
      // Nothing is asked of the server, so nothing is to be heard.
      this.heard = performance.now();
      return joined();
    }
    const { signal } = (this.#request = new AbortController());
    let end;
    try {
      end = await this.run(/** @type {Inner} */ (/** @type {unknown} */ (this)), signal, joined);
    } catch (error) {
      if (!signal.aborted && isOfChannel(error) && await this.#dropRefused(signal)) {
        if (!signal.aborted) this.#restart();
        return;
      }
      end = closeFor(error);
    }
    // A request that was replaced leaves those who still wait to the one that replaced it.
    if (!signal.aborted) this.finish(end);
  }

  /** Asks for each channel by itself. @param {AbortSignal} signal @returns {Promise<boolean>} whether any was refused */
  async #dropRefused(signal) {
    let dropped = false;
    for (const channel of [...this.receiver.channels.keys()]) {
      const error = await this.get('/poll', signal, 0, [channel]).catch((refusal) => refusal);
      if (signal.aborted || !isOfChannel(error)) continue;
      dropped = true;
      this.receiver.forget(channel);
      for (const waiting of this.#joining) {
        if (waiting.channel !== channel) continue;
        waiting.reject(error);
        this.#joining.delete(waiting);
      }
    }
    return dropped;
  }

  /** @protected @param {string} path @param {AbortSignal} signal @param {number} [wait] @param {Iterable<string>} [channels] */
  get(path, signal, wait, channels = this.receiver.channels.keys()) {
    const all = [...channels];
    const after = formatCursor(all.flatMap((channel) => this.entry(channel) ?? []));
    return this.#ask(path, { signal }, { channels: all, after, wait });
  }

  /** @param {string} path @param {RequestInit} init @param {import('./request.js').Query} [query] */
  async #ask(path, init, query) {
    const began = performance.now();
    const response = await ask(this.options, path, init, query);
    if (!query?.wait) this.answered(began);
    return response;
  }

  /** @protected @param {string} cursor of the server, over the channels that it was asked for */
  follow(cursor) {
    this.#told = cursor;
  }

  /** Takes over what the server has told last: not each time, for there may be 32 entries with every event. */
  #settle() {
    for (const entry of this.#told ? parseCursor(this.#told) : []) {
      for (const channel of this.receiver.channels.values()) if (channel.hash === entry.hash) channel.from = entry;
    }
    this.#told = '';
  }

  get cursor() {
    this.#settle();
    return super.cursor;
  }

  /** @param {string} channel */
  entry(channel) {
    this.#settle();
    return super.entry(channel);
  }

  /** @protected @param {Uint8Array | string} part of what the server says */
  count(part) {
    this.heard = performance.now();
    this.received.bytes += part.length;
    this.onpart?.(part);
  }

  /**
   * Publishes as a session, which is made for the first publication and again when the server has forgotten it.
   * @param {string} channel @param {import('./connection.js').Content} content
   * @returns {Promise<{epoch: string, offset: number}>}
   */
  publish(channel, content) {
    const published = this.#publishing.then(() => this.#publish(channel, content));
    const behind = this.#publishing = published.catch((error) => {
      if (!isPassing(error)) return;
      if (behind === this.#publishing) this.#publishing = Promise.resolve();
      throw error;
    });
    behind.catch(() => {});
    return published;
  }

  /** @param {string} channel @param {import('./connection.js').Content} content */
  async #publish(channel, content) {
    this.mustBeOpen();
    const { data, key, ...rest } = content;
    const payload = data instanceof Uint8Array ? { b64: toBase64(data) } : { data };
    const message = { type: 'publish', channel, ...rest, ...payload, key: key || undefined };
    for (let known = this.#session; ; known = false) {
      try {
        if (!this.#session) {
          // The secret makes the same session again, and with it the ids of what it has published.
          const { secret } = await this.#post('/session', {});
          this.#secret ??= secret;
          this.#session = true;
        }
        return await this.#post('/send', message);
      } catch (/** @type {any} */ error) {
        this.#session &&= error.status !== 401;
        if (!known || this.#session) throw error;
      }
    }
  }

  /** @param {string} path @param {unknown} content */
  async #post(path, content) {
    const body = JSON.stringify(content);
    this.received.sent += body.length;
    return answerOf(await this.#ask(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(this.#secret && { authorization: `Bearer ${this.#secret}` }) },
      body,
      signal: AbortSignal.timeout(15_000),
    }));
  }

  /** @protected @param {import('./connection.js').Close} close */
  release(close) {
    this.#request?.abort();
    const error = close.error ?? closedError(close);
    for (const { reject } of this.#joining) reject(error);
  }
}

/** Whether one channel is the reason of a refusal. @param {any} error */
const isOfChannel = (error) => /^(bad_channel|forbidden)$/.test(error.code);
