/** Server-sent events, read by a streaming fetch: the same code in pages and in node, and the cursor in our hands. */
import { CloseCode, FulmarError, closeFor, malformed } from '../errors.js';
import { HttpConnection } from '../http.js';
import { fromJson, parseJson } from '../json.js';

/** A line longer than this is not of a Fulmar server. */
const MAX_LINE = 1 << 20;

/** An event stream of which nothing comes for so long does not come through, in ms. */
const SILENCE_MS = 3000;

/** @typedef {{event: string, data: string, id: string}} SseEvent */

/** The event stream format of the HTML standard, fed with text in pieces. */
export class SseParser {
  #rest = '';
  #start = true;
  #event = '';
  /** @type {string[]} */
  #data = [];
  #id = '';
  /** The id up to which the stream has been read; that of its beginning is of no event. */
  lastId = '';
  /** The last `retry:`, in ms. @type {number | undefined} */
  retry = undefined;

  /** @param {string} text @returns {SseEvent[]} the events that are complete with it */
  push(text) {
    if (this.#start && text) {
      if (text.startsWith('\ufeff')) text = text.slice(1);
      this.#start = false;
    }
    // A CR at the very end may be half of a CR LF: its line waits for what comes next.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > MAX_LINE) throw malformed('a line of the event stream is too long');
    /** @type {SseEvent[]} */
    const events = [];
    for (const line of lines) this.#line(line, events);
    return events;
  }

  /** @param {string} line @param {SseEvent[]} events to which the line may add one */
  #line(line, events) {
    if (line === '') {
      if (this.#data.length) {
        events.push({ event: this.#event || 'message', data: this.#data.join('\n'), id: this.#id });
      }
      this.lastId = this.#id;
      this.#event = '';
      this.#data = [];
      return;
    }
    const [, field, value = ''] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#event = value;
    else if (field === 'id' && !value.includes('\0')) this.#id = value;
    else if (field === 'retry' && /^\d+$/.test(value)) this.retry = Number(value);
  }
}

class SseConnection extends HttpConnection {
  // A comment comes every 15 s.
  quiet = 40_000;

  /** @protected @param {AbortSignal} signal @param {() => void} joined @returns {Promise<import('../connection.js').Close>} */
  async run(signal, joined) {
    const silent = new FulmarError('held_back', 'The event stream is silent: something on the way is holding it back. Poll instead.');
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let silence;
    // The server says something at once. Firefox shows an answer only when some of its body has come.
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => this.finish(closeFor(silent)), SILENCE_MS);
    };
    const heard = () => clearTimeout(silence);
    signal.addEventListener('abort', heard, { once: true });
    listen();
    const response = await this.get('/sse', signal).catch((error) => {
      heard();
      throw error;
    });
    if (!signal.aborted) listen();
    if (response.status === 204) {
      joined();
      return { code: CloseCode.REFUSED, reason: 'The server asks not to come back.' };
    }

    const parser = new SseParser();
    const decoder = new TextDecoder();
    const reader = /** @type {ReadableStream<Uint8Array>} an event stream has one */ (response.body).getReader();
    /** @type {import('../connection.js').Close | null} */
    let close = null;
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        heard();
        this.count(value);
        for (const { event, data, id } of parser.push(decoder.decode(value, { stream: true }))) {
          if (signal.aborted) return { code: CloseCode.NORMAL, reason: '' };
          const message = fromJson(parseJson(data), event === 'message' ? 'publication' : event);
          if (message.type === 'close') close = { code: message.code, reason: message.reason };
          else this.deliver(message);
          if (id) this.cursor = id;
        }
        if (parser.lastId) this.cursor = parser.lastId;
        joined();
      }
    } catch (error) {
      if (!close) throw error;
    }
    return { ...(close ?? { code: CloseCode.LOST, reason: 'The event stream ended.' }), retry: parser.retry };
  }
}

/** @param {import('../fulmar.js').Placed} options */
export async function openSse(options) {
  return new SseConnection('sse', options);
}
