/** WebSocket, in the binary subprotocol. */
import { FulmarError, unreachable, within } from '../errors.js';
import { InbandConnection } from '../connection.js';
import { splitMessage } from '../framing.js';
import { decodeServer, encodeClient } from '../wire.js';
import { urlOf } from '../request.js';
import { discover } from './discover.js';

/** @param {import('../fulmar.js').Placed} options */
export async function openWebSocket(options) {
  const { base, timeout = 8000, WebSocket = globalThis.WebSocket } = options;
  if (!WebSocket) throw new FulmarError('unsupported', 'There is no WebSocket here: hand one in, or use another transport.');
  const socket = new WebSocket(urlOf(base, '/ws?batch').replace(/^http/, 'ws'), ['fulmar.v1.bin']);
  socket.binaryType = 'arraybuffer';
  // It closes then too; but where there are no pages an error that nobody listens to ends the process.
  socket.onerror = () => {};
  try {
    await within(timeout, new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = ({ reason }) => reject(unreachable(reason || 'The WebSocket could not be opened: is a proxy on the way?'));
    }));
  } catch (error) {
    socket.close();
    // A page is not told why: the server says it to those who ask.
    await discover(options);
    throw error;
  }
  return new InbandConnection('websocket', 'bin', (connection) => {
    socket.onmessage = ({ data }) => {
      if (!connection.open) return;
      connection.received.bytes += data.byteLength;
      try {
        for (const frame of splitMessage(new Uint8Array(data))) {
          // Values do not come here, and are passed over as all that is not known.
          connection.receive(/** @type {import('../wire.js').Frame} */ (decodeServer(frame)));
        }
      } catch (error) {
        connection.fail(error);
      }
    };
    socket.onclose = ({ code, reason }) => connection.finish({ code, reason });
    return {
      send(message) {
        const data = encodeClient(message);
        connection.received.sent += data.length;
        socket.send(data);
      },
      // A page may not close with other codes.
      close: (code, reason) => socket.close(code >= 3000 && code < 5000 ? code : 1000, reason.slice(0, 40)),
    };
  });
}
