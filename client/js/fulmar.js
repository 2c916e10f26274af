/**
 * The client of a Fulmar server: one interface over all of its transports.
 *
 *     const connection = await open('webtransport');
 *     const view = new StateView();
 *     connection.onmessage = (message) => view.apply(message);
 *     await connection.subscribe('host:cpu');
 *     const { code } = await connection.closed;       // then, after a while and if advice(code) allows:
 *     const next = await open('sse', { after: connection.cursor, channels: ['host:cpu'] });
 *
 * A connection does not reconnect by itself: it gives a `cursor`, which is good on any transport.
 *
 * @typedef {'webtransport' | 'websocket' | 'sse' | 'poll'} TransportName
 * @typedef {object} Options
 * @property {string} [base] where the server's HTTP is; by default where the page came from
 * @property {'json' | 'bin'} [encoding] on WebSocket; WebTransport is binary, SSE and poll are JSON
 * @property {number} [wait] poll: seconds the server may wait for something to tell; 0 is plain polling. Default 25
 * @property {number} [interval] poll: ms between one answer and the next request. Default 0, or 1000 if `wait` is 0
 * @property {number} [timeout] WebTransport: ms the handshake may take. Default 8000
 * @property {Iterable<string>} [channels] subscribed at once, as by `subscribe`
 * @property {string | null} [after] the cursor from which `channels` go on
 * @property {(message: import('./wire.js').Message) => void} [onmessage]
 * @property {typeof fetch} [fetch] another one than the platform's
 * @property {typeof WebSocket} [WebSocket] likewise (node 20 has none)
 * @property {any} [WebTransport] likewise
 */
import { openPoll } from './transports/poll.js';
import { openSse } from './transports/sse.js';
import { openWebSocket } from './transports/websocket.js';
import { openWebTransport } from './transports/webtransport.js';

export { CloseCode, FulmarError, advice } from './errors.js';
export { buildCursor, parseCursor } from './cursor.js';
export { StateView } from './state.js';
export { discover } from './transports/discover.js';

const OPENERS = { webtransport: openWebTransport, websocket: openWebSocket, sse: openSse, poll: openPoll };

/** From the best to what always works. @type {readonly TransportName[]} */
export const TRANSPORTS = Object.freeze(/** @type {TransportName[]} */ (Object.keys(OPENERS)));

/**
 * @param {TransportName} transport
 * @param {Options} [options]
 * @returns {Promise<import('./connection.js').InbandConnection | import('./http.js').HttpConnection>}
 */
export async function open(transport, options = {}) {
  const opener = OPENERS[transport];
  if (!opener) throw new TypeError(`no such transport: ${transport}`);
  const { base = globalThis.location?.origin, channels = [], after, onmessage = null } = options;
  if (!base) throw new TypeError('`base` is needed where there is no page');
  if (options.encoding && !['json', 'bin'].includes(options.encoding)) {
    throw new TypeError(`no such encoding: ${options.encoding}`);
  }
  const connection = await opener({ ...options, base });
  connection.onmessage = onmessage;
  try {
    await Promise.all([...channels].map((channel) => connection.subscribe(channel, { after })));
  } catch (error) {
    connection.close();
    throw error;
  }
  return connection;
}
