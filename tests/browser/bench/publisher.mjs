/**
 * Publishes values of state over one WebSocket, steadily: every few milliseconds those that are due. Started by
 * `measureUpdates`; ends when it is told to.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { encodeClient } from '../../../client/js/wire.js';
import { QuietWebSocket } from '../../parity/websocket.mjs';

const TICK_MS = 10;
/** What may wait to be sent. Beyond it the server takes less than is published, and some is left out. */
const MAX_UNSENT = 4 * 1024 * 1024;

const { base, channels, keys, rate } = JSON.parse(process.argv[2]);
const socket = new QuietWebSocket(`${base.replace(/^http/, 'ws')}/ws`, ['fulmar.v1.bin']);
await new Promise((resolve, reject) => {
  socket.onopen = resolve;
  socket.onclose = ({ code, reason }) => reject(new Error(`${code} ${reason}`));
});
socket.onclose = ({ code, reason }) => {
  console.error(`the publisher was closed with ${code} ${reason}`);
  process.exit(1);
};

const total = channels.length * keys;
let published = 0;
function publish(n) {
  const data = { n, x: (n * 7) % 1000 / 10, y: (n * 13) % 1000 / 10, on: n % 2 === 0 };
  const channel = channels[n % channels.length];
  const key = `k${Math.floor((n % total) / channels.length)}`;
  socket.send(encodeClient({ type: 'publish', channel, key, data }));
  published++;
}

// All keys are there before anybody reads.
for (let n = 0; n < total; n++) publish(n);
process.on('message', () => process.send({ published, at: performance.now() }));
process.once('disconnect', () => process.exit());
process.send({ published, at: performance.now() });

let due = total;
let last = performance.now();
for (let n = total; ;) {
  await sleep(TICK_MS);
  const now = performance.now();
  due += total * rate * (now - last) / 1000;
  last = now;
  socket._socket.cork();
  for (; n < due; n++) if (socket.bufferedAmount < MAX_UNSENT) publish(n);
  socket._socket.uncork();
}
