/** What SSE and poll share: one request for all channels, and the server's cursor. */
import { CloseCode, FulmarError, closeFor, closedError, errorOf } from './errors.js';
import { MAX_CURSOR_CHANNELS, buildCursor, cursorFor, entryOf, fnv1a64, formatCursor, mergeCursors, parseCursor } from './cursor.js';
import { PostingConnection, urlOf } from './posting.js';

/** @abstract */
export class HttpConnection extends PostingConnection {
  /** The last cursor that the server gave, over all channels. @type {string | null} */
  cursor = null;
  /** @protected @type {Set<string>} */
  channels = new Set();
  /** Called when something of the server has come. @type {(() => void) | null} */
  onheard = null;
  /** @type {AbortController | null} */
  #request = null;
  /** @type {{channel: string | null, resolve: () => void, reject: (error: unknown) => void}[]} */
  #joining = [];
  #scheduled = false;

  /**
   * Joins a channel to the request: all that are subscribed in one turn go on one request, and a later one has the
   * request made anew from the cursor.
   * A server that refuses a channel refuses the request, so each is then asked for by itself, and the others go on.
   * @param {string} channel @param {import('./connection.js').From} [from]
   * @returns {Promise<{type: 'subscribed', channel: string}>}
   */
  async subscribe(channel, { after, position } = {}) {
    if (!this.open) throw new FulmarError('closed', 'The connection is closed: open another.');
    if (this.channels.has(channel)) {
      throw new FulmarError('already_subscribed', `The connection has ${channel} already: unsubscribe first.`);
    }
    // Where all of them stand must go in one cursor.
    if (this.channels.size >= MAX_CURSOR_CHANNELS) {
      const message = `Over ${this.transport} at most ${MAX_CURSOR_CHANNELS} channels can be read: unsubscribe from some.`;
      throw new FulmarError('too_many_channels', message);
    }
    const from = position ? buildCursor([{ channel, ...position }]) : after;
    if (from) this.cursor = mergeCursors(this.cursor, from);
    this.channels.add(channel);
    await this.#change(channel);
    return { type: 'subscribed', channel };
  }

  /** @param {string} channel */
  async unsubscribe(channel) {
    if (!this.channels.delete(channel)) return;
    // Else a subscription that is made anew would go on where this one was.
    if (this.cursor) this.cursor = without(this.cursor, channel);
    await this.#change(null);
  }

  /**
   * @param {string | null} channel that joins
   * @returns {Promise<void>} settled when a request with the channels as they are now has been answered
   */
  #change(channel) {
    if (!this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(() => {
        this.#scheduled = false;
        this.#restart();
      });
    }
    return new Promise((resolve, reject) => this.#joining.push({ channel, resolve, reject }));
  }

  async #restart() {
    this.#request?.abort();
    if (!this.open) return;
    const joining = new Set(this.#joining);
    const joined = () => {
      for (const { resolve } of joining) resolve();
      this.#joining = this.#joining.filter((waiting) => !joining.has(waiting));
    };
    if (!this.channels.size) {
      // Nothing is asked of the server, so nothing is to be heard.
      this.heard = performance.now();
      return joined();
    }
    const { signal } = (this.#request = new AbortController());
    let end;
    try {
      end = await this.run(signal, joined);
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
      const error = await this.get('/poll', signal, undefined, [channel]).then(() => null, (refusal) => refusal);
      if (signal.aborted || !isOfChannel(error)) continue;
      dropped = true;
      this.channels.delete(channel);
      for (const waiting of this.#joining) if (waiting.channel === channel) waiting.reject(error);
      this.#joining = this.#joining.filter((waiting) => waiting.channel !== channel);
    }
    return dropped;
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

  /** @protected @param {string} path @param {AbortSignal} signal @param {number} [wait] @param {Iterable<string>} [channels] */
  async get(path, signal, wait, channels = this.channels) {
    const url = urlOf(this.base, path, { channels, after: cursorFor(this.cursor, channels), wait });
    const response = await this.fetch(url, { signal, cache: 'no-store' });
    if (!response.ok) throw await errorOf(response);
    return response;
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

  /** @param {string} channel */
  has(channel) {
    return this.channels.has(channel);
  }

  /** By asking anew: the server says something at once. */
  probe() {
    this.#change(null).catch(() => {});
    return true;
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

/** @param {string} cursor @param {string} channel @returns {string | null} */
function without(cursor, channel) {
  const hash = fnv1a64(channel);
  return formatCursor(parseCursor(cursor).filter((entry) => entry.hash !== hash));
}

/** Whether one channel is the reason of a refusal. @param {unknown} error */
const isOfChannel = (error) => error instanceof FulmarError && (error.code === 'bad_channel' || error.code === 'forbidden');
