/** A page that goes into the browser's cache and comes out again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Client } from '../../client/js/client.js';
import { Connection } from '../../client/js/connection.js';

/** Tells that it is closed when the page is awake again, as a WebSocket does. */
class Sleeping extends Connection {
  close() {
    this.end = () => this.finish({ code: 1000, reason: '' });
  }
}

test('connects again, though its connection was closed by itself and says so late', async (t) => {
  const opened = [];
  const client = new Client('http://server', ['websocket'], async () => {
    opened.push(new Sleeping('websocket', 'bin'));
    return opened.at(-1);
  });
  t.after(() => {
    client.close();
    for (const connection of opened) connection.end?.();
  });
  client.run();
  await client.ready;
  client.suspend();
  await setImmediate();
  const back = new Promise((resolve) => client.addEventListener('transport', ({ detail }) => detail && resolve()));
  client.wake();
  opened[0].end();
  await Promise.race([back, client.closed]);
  assert.equal(client.status, 'open');
  assert.equal(opened.length, 2);
});
