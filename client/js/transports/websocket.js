/** WebSocket, in both subprotocols. */
import { CloseCode, FulmarError, malformed } from '../errors.js';
import { InbandConnection } from '../connection.js';
import { fromJson, parseJson, toJson } from '../json.js';
import { AliasTable, bounded, decodeServer, encodeClient } from '../wire.js';
import { urlOf } from '../posting.js';
import { discover } from './discover.js';
import { within } from './within.js';

/** A page may not close with other codes. */
/** @param {number} code */
const closable = (code) => code === 1000 || (code >= 3000 && code <= 4999);

/**
 * @typedef {import('../wire.js').Message} Message
 * @typedef {import('../wire.js').ClientMessage} ClientMessage
 * @typedef {object} Codec
 * @property {(message: ClientMessage) => string | Uint8Array<ArrayBuffer>} encode
 * @property {(data: string | ArrayBuffer) => Message | null} decode null where the message is none of a WebSocket
 */

/** @type {Record<'json' | 'bin', () => Codec>} */
const codecs = {
  json: () => ({
    encode(message) {
      const text = JSON.stringify(toJson(message));
      bounded(new TextEncoder().encode(text));
      return text;
    },
    decode(data) {
      if (typeof data !== 'string') throw malformed('a binary message came in JSON');
      return fromJson(parseJson(data));
    },
  }),
  bin() {
    const aliases = new AliasTable();
    return {
      encode: encodeClient,
      decode(data) {
        if (typeof data === 'string') throw malformed('a text message came in binary');
        const frame = decodeServer(new Uint8Array(data));
        if (frame.type === 'values') return null;
        const message = aliases.resolve(frame);
        if (!message) throw malformed('a frame names an alias that stands for nothing');
        return message;
      },
    };
  },
};

class WebSocketConnection extends InbandConnection {
  #socket;
  #codec;

  /** @param {WebSocket} socket that is open @param {'json' | 'bin'} encoding */
  constructor(socket, encoding) {
    super('websocket', encoding);
    this.#socket = socket;
    this.#codec = codecs[encoding]();
    socket.onmessage = ({ data }) => this.#message(data);
    socket.onclose = ({ code, reason }) => {
      const said = this.closing;
      const abnormal = code === CloseCode.LOST || code === 1005;
      this.finish(said && (abnormal || said.code === code) ? said : { code, reason });
    };
  }

  /** @param {string | ArrayBuffer} data */
  #message(data) {
    if (!this.open) return;
    this.received.bytes += typeof data === 'string' ? data.length : data.byteLength;
    try {
      const message = this.#codec.decode(data);
      if (message) this.receive(message);
    } catch (error) {
      this.fail(error);
    }
  }

  /** @protected @param {ClientMessage} message */
  send(message) {
    const data = this.#codec.encode(message);
    this.received.sent += data.length;
    this.#socket.send(data);
  }

  close(code = CloseCode.NORMAL, reason = '') {
    this.#socket.close(closable(code) ? code : CloseCode.NORMAL, reason.slice(0, 40));
  }
}

/** @param {import('../fulmar.js').Placed} options */
export async function openWebSocket(options) {
  const { base, encoding = 'json', timeout = 8000 } = options;
  const WebSocket = options.WebSocket ?? globalThis.WebSocket;
  if (!WebSocket) throw new FulmarError('unsupported', 'There is no WebSocket here: hand one in, or use another transport.');
  const socket = new WebSocket(urlOf(base, '/ws').replace(/^http/, 'ws'), [`fulmar.v1.${encoding}`]);
  socket.binaryType = 'arraybuffer';
  // It closes then too; but where there are no pages an error that nobody listens to ends the process.
  socket.onerror = () => {};
  try {
    await within(timeout, new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = ({ reason }) => {
        reject(new FulmarError('unreachable', reason || 'The WebSocket could not be opened: is a proxy on the way?'));
      };
    }));
  } catch (error) {
    socket.close();
    // A page is not told why: the server says it to those who ask.
    await discover(options);
    throw error;
  }
  return new WebSocketConnection(socket, encoding);
}
