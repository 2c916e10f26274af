/**
 * One event stream, or one poll, for all tabs of an origin: over HTTP/1.1 a browser has six connections to a server, and
 * an event stream takes one for good. The tab that holds the lock reads for all, and tells the others what it reads; when
 * it goes, the next has the lock, and all go on from their own positions.
 *
 * @typedef {import('./cursor.js').Entry} Entry
 * @typedef {import('./wire.js').InChannel} InChannel
 * @typedef {import('./http.js').HttpConnection} HttpConnection
 * @typedef {{code: string, message: string, status?: number}} Refusal
 *
 * @typedef {{is: 'want', tab: string, channel: string, entry: Entry}} Want to whoever reads: this channel, from here
 * @typedef {{is: 'leave', tab: string, channel: string | null}} Leave null: all of them
 * @typedef {{is: 'reading'}} Reading of a tab that begins to read: what is wanted has to be said again
 * @typedef {{is: 'joined', channel: string, refusal?: Refusal}} Joined
 * @typedef {{is: 'told', message: InChannel}} Told
 * @typedef {{is: 'alive'}} Alive the server was heard
 * @typedef {{is: 'lost', close: import('./connection.js').Close, why?: Refusal}} Lost
 * @typedef {Want | Leave | Reading | Joined | Told | Alive | Lost} Word
 */
import { ALIVE_MS } from './limits.js';
import { cursorFor, entryFrom, entryOf, formatCursor } from './cursor.js';
import { FulmarError, answerOf, closedError, deferred } from './errors.js';
import { PostingConnection, ask } from './posting.js';
import { messagesOf } from './transports/poll.js';

/** Whether tabs have to share, and can. @param {string} base of the server */
export const shares = (base) => base.startsWith('http:') && globalThis.document && navigator.locks && globalThis.BroadcastChannel;

export class SharedConnection extends PostingConnection {
  quiet = 45_000;
  #name;
  #open;
  #tab = crypto.randomUUID();
  /** @type {BroadcastChannel} */
  #bus;
  /** Those who wait for the reading tab to have their channel. @type {Map<string, {resolve: () => void, reject: (error: Error) => void}>} */
  #joining = new Map();
  /** Gives the lock up. */
  #ended = new AbortController();
  /** Of the tab that reads: its connection. @type {HttpConnection | null} */
  #reader = null;
  /** Of the tab that reads: who wants a channel. @type {Map<string, Set<string>>} */
  #wanted = new Map();
  #saidAlive = -Infinity;

  /**
   * @param {'sse' | 'poll'} transport @param {import('./fulmar.js').Placed} options
   * @param {() => Promise<HttpConnection>} open the connection that one tab reads
   */
  constructor(transport, options, open) {
    super(transport, options);
    this.#name = `fulmar ${transport} ${options.base}`;
    this.#open = open;
    this.#bus = new BroadcastChannel(this.#name);
    this.#bus.onmessage = ({ data }) => this.#hear(data);
    const { signal } = this.#ended;
    navigator.locks.request(this.#name, { signal }, () => this.#read()).catch(() => {});
  }

  /**
   * @param {string} channel @param {import('./connection.js').From} [from]
   * @returns {Promise<{type: 'subscribed', channel: string}>}
   */
  async subscribe(channel, from = {}) {
    this.mustLack(channel);
    const { promise: joined, ...waiting } = deferred();
    this.#joining.set(channel, waiting);
    this.receiver.begin(channel);
    try {
      const entry = await this.#begin(channel, from);
      this.receiver.begin(channel, undefined, entry);
      this.#say({ is: 'want', tab: this.#tab, channel, entry });
      await joined;
    } catch (error) {
      this.receiver.forget(channel);
      throw error;
    } finally {
      this.#joining.delete(channel);
    }
    return { type: 'subscribed', channel };
  }

  /**
   * Reads what comes first by a request of its own: a snapshot is of no use to the other tabs, and whoever wants to go on
   * with them has to say from where.
   * @param {string} channel @param {import('./connection.js').From} from @returns {Promise<Entry>}
   */
  async #begin(channel, from) {
    let cursor = cursorFor(null, [], entryFrom(channel, from));
    for (;;) {
      const response = await ask(this.options, '/poll', { signal: this.#ended.signal }, { channels: [channel], after: cursor });
      const answer = await answerOf(response, (text) => (this.received.bytes += text.length));
      this.heard = performance.now();
      for (const message of messagesOf(answer)) this.deliver(message);
      cursor = answer.cursor;
      const entry = entryOf(answer.cursor, channel);
      if (!answer.more && entry) return entry;
    }
  }

  /** @param {string} channel */
  async unsubscribe(channel) {
    if (!this.receiver.forget(channel)) return;
    this.#say({ is: 'leave', tab: this.#tab, channel });
  }

  // ---- what tabs say to each other ----------------------------------------------------------------------------------

  /** To all tabs, this one too. @param {Word} word */
  #say(word) {
    this.#bus.postMessage(word);
    this.#hear(word);
  }

  /** @param {Word} word */
  #hear(word) {
    if (!this.open) return;
    switch (word.is) {
      case 'reading':
        for (const channel of this.receiver.channels.keys()) {
          const entry = this.entry(channel);
          if (entry) this.#say({ is: 'want', tab: this.#tab, channel, entry });
        }
        break;
      case 'joined': {
        const waiting = this.#joining.get(word.channel);
        if (!word.refusal) waiting?.resolve();
        else waiting?.reject(errorFrom(word.refusal));
        break;
      }
      case 'told': this.#told(word.message); break;
      case 'alive': this.heard = performance.now(); break;
      case 'lost': this.finish({ ...word.close, error: word.why && errorFrom(word.why) }); break;
      case 'want': this.#wants(word); break;
      case 'leave': this.#leaves(word); break;
    }
  }

  /** @param {InChannel} message that was read for all; what is known here is dropped */
  #told(message) {
    this.heard = performance.now();
    const { type, channel, epoch, offset } = message;
    const at = this.entry(channel);
    const isKnown = at?.epoch === epoch && offset <= at.offset;
    if (isKnown && (type === 'publication' || type === 'gap')) return;
    this.receiver.take(message);
  }

  // ---- of the tab that reads ----------------------------------------------------------------------------------------

  /** Has the lock: reads for all until its own end. */
  async #read() {
    if (!this.open) return;
    const reader = await this.#open();
    this.#reader = reader;
    reader.onmessage = (message) => {
      if ('offset' in message) this.#say({ is: 'told', message: /** @type {InChannel} */ (message) });
    };
    let counted = 0;
    reader.onheard = () => {
      // What comes for all tabs comes to this one.
      const { bytes } = reader.received;
      this.received.bytes += bytes - counted;
      counted = bytes;
      const now = performance.now();
      if (now - this.#saidAlive < ALIVE_MS) return;
      this.#saidAlive = now;
      this.#say({ is: 'alive' });
    };
    this.#say({ is: 'reading' });
    this.#ended.signal.onabort = () => reader.close();
    const { error, ...close } = await reader.closed;
    this.#reader = null;
    if (this.open) this.#say({ is: 'lost', close, why: error instanceof FulmarError ? refusalOf(error) : undefined });
  }

  /** @param {Want} want */
  async #wants({ tab, channel, entry }) {
    const reader = this.#reader;
    if (!reader) return;
    const tabs = this.#wanted.get(channel);
    if (tabs) {
      tabs.add(tab);
      const at = reader.entry(channel);
      if (at && at.epoch === entry.epoch && at.offset <= entry.offset) {
        this.#say({ is: 'joined', channel });
        return;
      }
      // It has come less far than the others, who know what comes again.
      reader.unsubscribe(channel).catch(() => {});
    } else this.#wanted.set(channel, new Set([tab]));
    try {
      await reader.subscribe(channel, { after: formatCursor([entry]) });
      this.#say({ is: 'joined', channel });
    } catch (error) {
      this.#wanted.delete(channel);
      if (!reader.open || !(error instanceof FulmarError)) return;
      this.#say({ is: 'joined', channel, refusal: refusalOf(error) });
    }
  }

  /** @param {Leave} leave */
  #leaves({ tab, channel }) {
    for (const [name, tabs] of this.#wanted) {
      if ((channel ?? name) !== name || !tabs.delete(tab) || tabs.size) continue;
      this.#wanted.delete(name);
      this.#reader?.unsubscribe(name).catch(() => {});
    }
  }

  /** @protected @param {import('./connection.js').Close} close */
  release(close) {
    this.#bus.postMessage({ is: 'leave', tab: this.#tab, channel: null });
    this.#bus.close();
    this.#ended.abort();
    const error = /** @type {Error} */ (close.error) ?? closedError(close);
    for (const { reject } of this.#joining.values()) reject(error);
  }
}

/** What tabs can tell each other of an error. @param {FulmarError} error @returns {Refusal} */
const refusalOf = ({ code, message, status }) => ({ code, message, status });

/** @param {Refusal} refusal */
const errorFrom = ({ code, message, ...more }) => new FulmarError(code, message, more);
