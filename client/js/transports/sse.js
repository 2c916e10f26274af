/** Server-sent events, read by a streaming fetch: the same code in pages and in node, and the cursor in our hands. */
import { LOST, REFUSED } from '../codes.js';
import { MAX_EVENT, SILENCE_MS } from '../limits.js';
import { FulmarError, closeFor, malformed } from '../errors.js';
import { HttpConnection } from '../http.js';
import { fromJson, parseJson } from '../json.js';

/**
 * The event stream format of the HTML standard, but for lines that end with CR alone. Fed with text in pieces, off which its
 * decoder has taken a byte order mark.
 * @returns {(text: string) => Record<string, string>[]} gives the fields of each event that is complete with it
 */
export function createSseParser() {
  let rest = '';
  return (text) => {
    const events = (rest + text).split(/\r?\n\r?\n/);
    rest = events.pop() ?? '';
    if (rest.length > MAX_EVENT) throw malformed('length');
    return events.map((lines) => {
      /** @type {Record<string, string>} */
      const fields = {};
      for (const line of lines.split(/\r?\n/)) {
        const [field = '', value = ''] = line.split(/: ?(.*)/s, 2);
        // There may be several lines of data.
        fields[field] = field in fields ? `${fields[field]}\n${value}` : value;
      }
      return fields;
    });
  };
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
  const parse = createSseParser();
  /** @type {import('../connection.js').Close} */
  let close = { code: LOST, reason: 'The server ended it.' };
  /** @type {number | undefined} */
  let retry;
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
      for (const { event = 'publication', data, id, retry: ms } of parse(decoder.decode(value, { stream: true }))) {
        signal.throwIfAborted();
        if (Number(ms) >= 0) retry = Number(ms);
        // That of the stream's beginning is of no event. Whoever takes a cursor while one is handed over goes on behind it.
        if (id) connection.follow(id);
        if (data) {
          const message = fromJson(parseJson(data), event);
          if (message.type === 'close') close = message;
          else connection.deliver(message);
        }
      }
      joined();
    }
  } catch (error) {
    if (close.code === LOST) throw error;
  } finally {
    clearTimeout(silence);
  }
  return { code: close.code, reason: close.reason, retry };
}

/** @param {import('../fulmar.js').Placed} options */
export async function openSse(options) {
  // A comment comes every 15 s.
  return new HttpConnection('sse', options, run, 40_000);
}
