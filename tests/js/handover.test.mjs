/** A connection that opened is handed over once, whoever dialled it and whoever else waited for it. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Dialler } from '../../client/js/dial.js';

/** Connections that open when they are told to. */
let opening;
beforeEach(() => {
  opening = [];
});

const dials = (transports) => {
  const base = `http://${Math.random()}`;
  const handed = [];
  const dialler = new Dialler(base, transports, (transport) => new Promise((resolve, reject) => {
    const connection = { transport, closed: false, close() { this.closed = true; } };
    opening.push({ transport, connection, open: () => resolve(connection), fail: () => reject(new Error(`no ${transport}`)) });
  }), (connection) => handed.push(connection) > 0);
  return { dialler, handed };
};

test('once where it is dialled for a fallback while it is still being dialled', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { dialler, handed } = dials(['webtransport', 'websocket']);
  const first = dialler.dial();
  t.mock.timers.tick(500);
  await setImmediate();
  opening[1].open();
  assert.equal((await first).transport, 'websocket');
  const better = dialler.dialBetter('websocket');
  assert.equal(opening.length, 2, 'it is not dialled twice');
  opening[0].open();
  await better;
  assert.deepEqual(handed, [opening[0].connection]);
});

test('to who waits for any where it was dialled for a fallback that has gone meanwhile', async () => {
  const { dialler, handed } = dials(['webtransport', 'websocket']);
  const better = dialler.dialBetter('websocket');
  const next = dialler.dial();
  opening[0].open();
  assert.equal(await next, opening[0].connection);
  await better;
  await setImmediate();
  assert.deepEqual(handed, []);
  assert.equal(opening[0].connection.closed, false);
});

test('to who waits where the network is another one: what hangs is dialled anew, and what fails of it says nothing', async () => {
  const { dialler, handed } = dials(['webtransport']);
  const first = dialler.dial();
  dialler.networkChanged();
  assert.equal(opening.length, 2);
  opening[0].fail();
  await setImmediate();
  opening[1].open();
  assert.equal(await first, opening[1].connection);
  assert.deepEqual(handed, []);
});
