/** What SSE and poll share: one request for all channels, and the server's cursor. */
import { MAX_CURSOR_CHANNELS } from './limits.js';
import { FulmarError, closeFor, closedError, deferred } from './errors.js';
import { cursorFor, entryFrom, entryOf } from './cursor.js';
import { PostingConnection, ask } from './posting.js';

/**
 * @typedef {object} Inner what a connection is to what reads for it
 * @property {string | null} cursor
 * @property {(close: import('./connection.js').Close) => void} finish
 * @property {(message: import('./wire.js').Message) => void} deliver
 * @property {(part: Uint8Array | string) => void} count
 * @property {(path: string, signal: AbortSignal, wait?: number) => Promise<Response>} get
 *
 * @callback Run reads the channels on from the cursor until the server ends it or `signal` is aborted
 * @param {Inner} connection
 * @param {AbortSignal} signal
 * @param {() => void} joined to be called when the server has taken the channels
 * @returns {Promise<import('./connection.js').Close>}
 */

export class HttpConnection extends PostingConnection {
  /** @protected @type {Set<string>} */
  channels = new Set();
  /** The last cursor that the server gave, over all channels. @type {string | null} */
  #cursor = null;
  /** Called when something of the server has come. @type {(() => void) | null} */
  onheard = null;
  #run;
  /** @type {AbortController | null} */
  #request = null;
  /** @type {Set<{channel: string | null, resolve: () => void, reject: (error: unknown) => void}>} */
  #joining = new Set();
  #scheduled = false;

  /** @package @param {'sse' | 'poll'} transport @param {import('./fulmar.js').Placed} options @param {Run} run */
  constructor(transport, options, run) {
    super(transport, options);
    this.#run = run;
  }

  get cursor() {
    return this.#cursor;
  }

  set cursor(cursor) {
    this.#cursor = cursor;
  }

  /**
   * Joins a channel to the request: all that are subscribed in one turn go on one request, and a later one has the
   * request made anew from the cursor.
   * A server that refuses a channel refuses the request, so each is then asked for by itself, and the others go on.
   * @param {string} channel @param {import('./connection.js').From} [from]
   * @returns {Promise<{type: 'subscribed', channel: string}>}
   */
  async subscribe(channel, from = {}) {
    this.mustLack(channel);
    // Where all of them stand must go in one cursor.
    if (this.channels.size >= MAX_CURSOR_CHANNELS) {
      throw new FulmarError('too_many_channels', `SSE and polling read ${MAX_CURSOR_CHANNELS} channels: unsubscribe from some.`);
    }
    this.cursor = cursorFor(this.cursor, this.channels, entryFrom(channel, from));
    this.channels.add(channel);
    await this.#change(channel);
    return { type: 'subscribed', channel };
  }

  /** @param {string} channel */
  async unsubscribe(channel) {
    if (!this.channels.delete(channel)) return;
    // Else a subscription that is made anew would go on where this one was.
    this.cursor = cursorFor(this.cursor, this.channels);
    await this.#change(null);
  }

  /**
   * @param {string | null} channel that joins
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
    if (!this.channels.size) {
      // Nothing is asked of the server, so nothing is to be heard.
      this.heard = performance.now();
      return joined();
    }
    const { signal } = (this.#request = new AbortController());
    let end;
    try {
      end = await this.#run(/** @type {Inner} */ (/** @type {unknown} */ (this)), signal, joined);
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
    for (const channel of [...this.channels]) {
      const error = await this.get('/poll', signal, 0, [channel]).catch((refusal) => refusal);
      if (signal.aborted || !isOfChannel(error)) continue;
      dropped = true;
      this.channels.delete(channel);
      for (const waiting of this.#joining) {
        if (waiting.channel !== channel) continue;
        waiting.reject(error);
        this.#joining.delete(waiting);
      }
    }
    return dropped;
  }

  /** @protected @param {string} path @param {AbortSignal} signal @param {number} [wait] @param {Iterable<string>} [channels] */
  get(path, signal, wait, channels = this.channels) {
    return ask(this.options, path, { signal }, { channels, after: cursorFor(this.cursor, channels), wait });
  }

  /** @param {string} channel */
  entry(channel) {
    return (this.cursor && entryOf(this.cursor, channel)) || null;
  }

  /** @protected @param {Uint8Array | string} part */
  count(part) {
    this.heard = performance.now();
    this.received.bytes += part.length;
    this.onheard?.();
  }

  /** By asking anew: the server says something at once. */
  probe() {
    this.#change(null);
    return true;
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
