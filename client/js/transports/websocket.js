/** WebSocket, in both subprotocols. */
import { FulmarError, malformed, unreachable, within } from '../errors.js';
import { InbandConnection } from '../connection.js';
import { fromJson, parseJson, toJson } from '../json.js';
import { bounded, createAliases, decodeServer, encodeClient } from '../wire.js';
import { urlOf } from '../posting.js';
import { discover } from './discover.js';

/** @typedef {import('../wire.js').ClientMessage} ClientMessage */

/**
 * @typedef {object} Codec
 * @property {(message: ClientMessage) => string | Uint8Array<ArrayBuffer>} encode
 * @property {(data: any) => any} decode
 */

/** @returns {Codec} */
const createJson = () => ({
  encode(message) {
    const text = JSON.stringify(toJson(message));
    bounded(new TextEncoder().encode(text));
    return text;
  },
  decode: (text) => fromJson(parseJson(text)),
});

/** @returns {Codec} */
function createBinary() {
  const aliases = createAliases();
  return {
    encode: encodeClient,
    decode(data) {
      if (typeof data === 'string') throw malformed('text');
      // Values do not come here, and are passed over as all that is not known.
      const message = aliases.resolve(/** @type {import('../wire.js').Frame} */ (decodeServer(new Uint8Array(data))));
      if (!message) throw malformed('alias');
      return message;
    },
  };
}

/** @param {import('../fulmar.js').Placed} options */
export async function openWebSocket(options) {
  const { base, encoding = 'json', timeout = 8000, WebSocket = globalThis.WebSocket } = options;
  if (!['json', 'bin'].includes(encoding)) throw new TypeError(`no such encoding: ${encoding}`);
  if (!WebSocket) throw new FulmarError('unsupported', 'There is no WebSocket here.');
  const socket = new WebSocket(urlOf(base, '/ws').replace(/^http/, 'ws'), [`fulmar.v1.${encoding}`]);
  socket.binaryType = 'arraybuffer';
  // It closes then too; but where there are no pages an error that nobody listens to ends the process.
  socket.onerror = () => {};
  try {
    await within(timeout, new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = ({ reason }) => reject(unreachable(reason || 'It could not be opened.'));
    }));
  } catch (error) {
    socket.close();
    // A page is not told why: the server says it to those who ask.
    await discover(options);
    throw error;
  }
  const { encode, decode } = encoding === 'json' ? createJson() : createBinary();
  return new InbandConnection('websocket', encoding, (connection) => {
    socket.onmessage = ({ data }) => {
      if (!connection.open) return;
      connection.received.bytes += data.length ?? data.byteLength;
      try {
        connection.receive(decode(data));
      } catch (error) {
        connection.fail(error);
      }
    };
    socket.onclose = ({ code, reason }) => connection.finish({ code, reason });
    return {
      send(message) {
        const data = encode(message);
        connection.received.sent += data.length;
        socket.send(data);
      },
      // A page may not close with other codes.
      close: (code, reason) => socket.close(code >= 3000 && code < 5000 ? code : 1000, reason.slice(0, 40)),
    };
  });
}
