/**
 * One event stream, or one poll, for all tabs of an origin: over HTTP/1.1 a browser has six connections to a server, and
 * an event stream takes one for good. Each tab polls until it has caught up; from there on the tab that holds the lock
 * reads for all, and tells the others what it reads. When it goes, the next has the lock, and all go on from their own
 * positions.
 *
 * @typedef {import('./wire.js').InChannel} InChannel
 * @typedef {[channel: string, entry: import('./cursor.js').Entry | null]} Wanted
 * @typedef {{code?: string, status?: number}} Why what tabs can tell each other of an error, whose message is the reason of the close
 *
 * @typedef {{is: 'want', all: Wanted[]}} Want to whoever reads: these channels, from there
 * @typedef {{is: 'leave', channels: string[]}} Leave somebody does not want them any more
 * @typedef {{is: 'reading'}} Reading of whoever reads: what is wanted has to be said again
 * @typedef {{is: 'refused', channel: string}} Refused it cannot be read for all
 * @typedef {{is: 'told', message: InChannel}} Told
 * @typedef {{is: 'lost', close: import('./connection.js').Close, why: Why}} Lost
 * @typedef {Want | Leave | Reading | Refused | Told | Lost} Word
 */
import { FulmarError } from './errors.js';
import { Heartbeat } from './heartbeat.js';
import { HttpConnection } from './http.js';
import { poll } from './transports/poll.js';

/** Whether tabs have to share, and can. @param {string} base of the server */
export const shares = (base) => base.startsWith('http:') && globalThis.document && navigator.locks && globalThis.BroadcastChannel;

export class SharedConnection extends HttpConnection {
  #name;
  #open;
  #bus;
  /** Whether it has caught up, and goes on with what it is told. */
  #listening = false;
  /** Whether it reads by itself: what it wants does not go together with what the others do. */
  #alone = false;
  /** Gives the lock up. */
  #ended = new AbortController();
  /** Of the tab that reads: its connection. @type {HttpConnection | null} */
  #reader = null;

  /**
   * @param {'sse' | 'poll'} transport @param {import('./fulmar.js').Placed} options
   * @param {() => Promise<HttpConnection>} open the connection that one tab reads
   */
  constructor(transport, options, open) {
    super(transport, options, async (connection, signal, joined) => {
      this.#listening = false;
      if (this.#alone) return (await open()).run(connection, signal, joined);
      while ((await poll(connection, signal)).more);
      signal.throwIfAborted();
      for (const channel of [...this.receiver.channels.keys()]) this.receiver.begin(channel, undefined, this.entry(channel) ?? {});
      this.#listening = true;
      this.#want();
      joined();
      // It ends with the connection, or when there is another set of channels.
      return new Promise(() => {});
    }, 45_000);
    // The 2 is that of these words: a tab of an earlier version of the page has others.
    this.#name = `fulmar2 ${transport} ${options.base}`;
    this.#open = open;
    this.#bus = new BroadcastChannel(this.#name);
    this.#bus.onmessage = ({ data }) => this.#hear(data);
    const { signal } = this.#ended;
    navigator.locks.request(this.#name, { signal }, () => this.#read()).catch(() => {});
  }

  /** @param {string} channel */
  unsubscribe(channel) {
    const left = super.unsubscribe(channel);
    this.#say({ is: 'leave', channels: [channel] });
    return left;
  }

  /** To all tabs, this one too. @param {Word} word */
  #say(word) {
    if (!this.open) return;
    this.#bus.postMessage(word);
    this.#hear(word);
  }

  #want() {
    this.#say({ is: 'want', all: [...this.receiver.channels.keys()].map((channel) => [channel, this.entry(channel)]) });
  }

  /** @param {Word} word */
  #hear(word) {
    switch (word.is) {
      case 'reading':
        if (this.#listening) this.#want();
        break;
      case 'refused':
        if (this.has(word.channel)) {
          this.#alone = true;
          this.probe();
        }
        break;
      case 'told':
        if (this.#listening) this.#told(word.message);
        break;
      case 'lost': {
        const { close, why } = word;
        this.finish({ ...close, error: why.code && new FulmarError(why.code, close.reason, why) });
        break;
      }
      case 'want':
        for (const wanted of word.all) this.#wants(...wanted);
        break;
      case 'leave':
        for (const channel of word.channels) this.#reader?.unsubscribe(channel).catch(() => {});
        // Others may want it still.
        if (this.#reader) this.#say({ is: 'reading' });
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
    const reader = await this.#open();
    if (!this.open) return reader.close();
    this.#reader = reader;
    reader.onmessage = (message) => {
      if ('offset' in message) this.#say({ is: 'told', message: /** @type {InChannel} */ (message) });
    };
    // What comes for all tabs comes to this one.
    reader.onpart = (part) => this.count(part);
    const heartbeat = new Heartbeat(reader, () => reader.lost());
    heartbeat.start();
    this.#say({ is: 'reading' });
    this.#ended.signal.onabort = () => reader.close();
    const { error, ...close } = await reader.closed;
    heartbeat.stop();
    this.#reader = null;
    this.#say({ is: 'lost', close, why: { .../** @type {Why | undefined} */ (error) } });
  }

  /** @param {Wanted} wanted */
  #wants(...[channel, entry]) {
    const reader = this.#reader;
    if (!reader) return;
    if (reader.has(channel)) {
      const at = reader.entry(channel);
      if (!entry || (at?.epoch === entry.epoch && at.offset <= entry.offset)) return;
      // It has come less far than the others, who know what comes again.
      reader.unsubscribe(channel).catch(() => {});
    }
    reader.subscribe(channel, entry ? { position: entry } : {}).catch((error) => {
      if (reader.open && error instanceof FulmarError) this.#say({ is: 'refused', channel });
    });
  }

  /** @protected @param {import('./connection.js').Close} close */
  release(close) {
    super.release(close);
    this.#bus.postMessage({ is: 'leave', channels: [...this.receiver.channels.keys()] });
    this.#bus.close();
    this.#ended.abort();
  }
}
