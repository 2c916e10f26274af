/** Server-sent events, read by a streaming fetch: the same code in pages and in node, and the cursor in our hands. */
import { LOST, NORMAL, REFUSED } from '../codes.js';
import { MAX_LINE, SILENCE_MS } from '../limits.js';
import { FulmarError, closeFor, malformed } from '../errors.js';
import { HttpConnection } from '../http.js';
import { fromJson, parseJson } from '../json.js';

/** @typedef {{event: string, data: string, id: string}} SseEvent */

/** The event stream format of the HTML standard, fed with text in pieces, off which its decoder has taken a byte order mark. */
export function createSseParser() {
  let rest = '', event = '', id = '';
  /** @type {string[]} */
  let lines = [];
  const parser = {
    /** The id up to which the stream has been read; that of its beginning is of no event. */
    lastId: '',
    /** The last `retry:`, in ms. @type {number | undefined} */
    retry: undefined,

    /** @param {string} text @returns {SseEvent[]} the events that are complete with it */
    push(text) {
      // A CR at the very end may be half of a CR LF: its line waits for what comes next.
      const whole = (rest + text).split(/\r\n|\n|\r(?!$)/);
      rest = whole.pop() ?? '';
      if (rest.length > MAX_LINE) throw malformed('length');
      /** @type {SseEvent[]} */
      const events = [];
      for (const line of whole) {
        const [, field, value = ''] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
        if (!line) {
          if (lines.length) events.push({ event: event || 'message', data: lines.join('\n'), id });
          parser.lastId = id;
          event = '';
          lines = [];
        } else if (field === 'data') lines.push(value);
        else if (field === 'event') event = value;
        else if (field === 'id' && !value.includes('\0')) id = value;
        else if (field === 'retry' && /^\d+$/.test(value)) parser.retry = Number(value);
      }
      return events;
    },
  };
  return parser;
}

/** @type {import('../http.js').Run} */
async function run(connection, signal, joined) {
  /** @type {any} */
  let silence;
  /** The server says something at once. */
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(() => connection.finish(closeFor(
      new FulmarError('held_back', 'Something on the way is holding it back: poll.'))), SILENCE_MS);
  };
  const parser = createSseParser();
  /** @type {import('../connection.js').Close | null} */
  let close = null;
  try {
    listen();
    const { status, body } = await connection.get('/sse', signal);
    // Firefox shows an answer only when some of its body has come.
    listen();
    if (status === 204) {
      joined();
      return { code: REFUSED, reason: 'The server ended it for good.' };
    }
    const decoder = new TextDecoder();
    const reader = /** @type {ReadableStream<Uint8Array>} an event stream has one */ (body).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      clearTimeout(silence);
      connection.count(value);
      for (const { event, data, id } of parser.push(decoder.decode(value, { stream: true }))) {
        if (signal.aborted) return { code: NORMAL, reason: '' };
        const message = fromJson(parseJson(data), event === 'message' ? 'publication' : event);
        if (message.type === 'close') close = { code: message.code, reason: message.reason };
        else connection.deliver(message);
        if (id) connection.cursor = id;
      }
      if (parser.lastId) connection.cursor = parser.lastId;
      joined();
    }
  } catch (error) {
    if (!close) throw error;
  } finally {
    clearTimeout(silence);
  }
  return { ...(close ?? { code: LOST, reason: 'The server ended it.' }), retry: parser.retry };
}

/** @param {import('../fulmar.js').Placed} options */
export async function openSse(options) {
  const sse = new HttpConnection('sse', options, run);
  // A comment comes every 15 s.
  sse.quiet = 40_000;
  return sse;
}
