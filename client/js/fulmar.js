/**
 * The client of a Fulmar server.
 *
 *     const client = connect();
 *     client.subscribe('event:chat', { onPublication: ({ data }) => console.log(data) });
 *     const players = client.state('state:players');
 *     await client.publish('event:chat', 'hello');
 *
 * It finds the best transport that works, stays connected, and goes on where it was. Below it lies `open`, one connection
 * over one transport, for those who want to do that themselves:
 *
 *     const connection = await open('webtransport');
 *     const view = new StateView();
 *     connection.onmessage = (message) => view.apply(message);
 *     await connection.subscribe('host:cpu');
 *     const { code } = await connection.closed;       // then, after a while and if advice(code) allows:
 *     const next = await open('sse', { after: connection.cursor, channels: ['host:cpu'] });
 *
 * A connection does not reconnect by itself: it gives a `cursor`, which is good on any transport.
 */

/**
 * @typedef {import('./wire.js').Message} Message what a server says; its `type` tells which
 * @typedef {import('./wire.js').Publication} Publication a value, an event or a signal of a channel
 * @typedef {import('./wire.js').Content} Content what can be published: text, bytes or a JSON value as `data`, or a removal
 * @typedef {import('./connection.js').Close} Close why a connection ended; see `advice`
 * @typedef {import('./connection.js').From} From where a subscription goes on: after a cursor, or a position in its channel
 * @typedef {import('./cursor.js').Position} Position a position in one channel
 * @typedef {import('./cursor.js').Entry} Entry one position of a cursor, in the channel whose name has this hash
 * @typedef {import('./state.js').Value} Value what a `StateView` holds of a key
 * @typedef {import('./connection.js').InbandConnection | import('./http.js').HttpConnection |
 *   import('./shared.js').SharedConnection} AnyConnection a connection on any transport
 * @typedef {'webtransport' | 'websocket' | 'sse' | 'poll'} TransportName
 * @typedef {object} Options
 * @property {string} [base] where the server's HTTP is; by default where the page came from
 * @property {number} [wait] poll: seconds the server may wait for something to tell; 0 is plain polling. Default 25
 * @property {number} [interval] poll: ms between one answer and the next request. Default 0, or 1000 if `wait` is 0
 * @property {number} [timeout] WebTransport and WebSocket: ms the handshake may take. Default 8000
 * @property {boolean} [attach] WebTransport: `attach` is the first that is called on the connection, and the server takes
 *   nothing before it. Not together with `channels`
 * @property {Iterable<string>} [channels] subscribed at once, as by `subscribe`
 * @property {string | null} [after] the cursor from which `channels` go on
 * @property {(message: Message) => void} [onmessage]
 * @property {typeof fetch} [fetch] another one than the platform's
 * @property {typeof WebSocket} [WebSocket] likewise (node 20 has none)
 * @property {typeof WebTransport} [WebTransport] likewise
 * @typedef {import('./connection.js').From & {channel: string}} Wanted
 * @typedef {Options & {base: string, wanted?: () => Wanted[]}} Placed options of which it is settled where the server is, and
 *   what will be subscribed to at once
 */
import { Client } from './client.js';
import { follow } from './platform.js';
import { discover } from './transports/discover.js';
import { SharedConnection, shares } from './shared.js';
import { openPoll } from './transports/poll.js';
import { openSse } from './transports/sse.js';
import { openWebSocket } from './transports/websocket.js';
import { openWebTransport } from './transports/webtransport.js';

export { CloseCode, FulmarError, advice } from './errors.js';
export { Client } from './client.js';
export { LiveState } from './live.js';
export { Subscription } from './subscription.js';
export { buildCursor, parseCursor } from './cursor.js';
export { StateView } from './state.js';
export { discover };

const OPENERS = { webtransport: openWebTransport, websocket: openWebSocket, sse: openSse, poll: openPoll };

/** From the best to what always works. @type {readonly TransportName[]} */
export const TRANSPORTS = /* @__PURE__ */ Object.freeze(/** @type {TransportName[]} */ (
  /* @__PURE__ */ Object.keys(OPENERS)
));

/**
 * Connects, at once and for as long as the client is not closed. What is asked of the client meanwhile waits.
 * @param {string} [base] where the server's HTTP is; by default where the page came from
 * @param {import('./client.js').ClientOptions} [options]
 * @returns {Client}
 */
export function connect(base, options = {}) {
  const { transports = TRANSPORTS } = options;
  const all = placed({ ...options, base, attach: true });
  for (const transport of transports) named(transport);
  if (!transports.length) throw new TypeError('transports: name one at least');
  const client = new Client(all.base, transports, async (transport, wanted) => {
    // These open with their first channel: whether there is a server is asked before.
    if (transport === 'sse' || transport === 'poll') {
      await discover(all);
      if (shares(all.base)) return new SharedConnection(transport, all, () => OPENERS[transport](all));
    }
    return OPENERS[transport]({ ...all, wanted });
  });
  follow(client);
  client.run();
  return client;
}

/** @template {Options} T @param {T} options @returns {T & Placed} */
function placed(options) {
  const { base = globalThis.location?.origin } = options;
  if (!base) throw new TypeError('base: the server\'s URL is needed where there is no page');
  return { ...options, base };
}

/** @param {TransportName} transport */
function named(transport) {
  const opener = OPENERS[transport];
  if (!opener) throw new TypeError(`no such transport: ${transport}`);
  return opener;
}

/**
 * Opens a connection on this transport and no other, and subscribes to `channels` at once.
 * @param {TransportName} transport
 * @param {Options} [options]
 * @returns {Promise<AnyConnection>}
 */
export async function open(transport, options = {}) {
  const opener = named(transport);
  const { channels = [], after, onmessage = null } = options;
  const connection = await opener(placed(options));
  connection.onmessage = onmessage;
  try {
    await Promise.all([...channels].map((channel) => connection.subscribe(channel, { after })));
  } catch (error) {
    connection.close();
    throw error;
  }
  return connection;
}
