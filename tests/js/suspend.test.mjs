/** Closes that are no goodbye: of a page that was put away and is back, and of a connection that overtook another. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Client } from '../../client/js/client.js';
import { Connection } from '../../client/js/connection.js';

/** Tells that it is closed when the page is awake again, as a WebSocket does. */
class Sleeping extends Connection {
  identify() {}
  close() {
    this.end = () => this.finish({ code: 1000, reason: '' });
  }
}

/** A client, and the connections that it has opened. */
async function connected(t) {
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
  return { client, opened };
}

test('connects again, though its connection was closed by itself and says so late', async (t) => {
  const { client, opened } = await connected(t);
  client.suspend();
  await setImmediate();
  const back = new Promise((resolve) => client.addEventListener('transport', ({ detail }) => detail && resolve()));
  client.wake();
  opened[0].end();
  await Promise.race([back, client.closed]);
  assert.equal(client.status, 'open');
  assert.equal(opened.length, 2);
});

test('connects again where it was replaced, which it was by itself', async (t) => {
  const { client, opened } = await connected(t);
  const back = new Promise((resolve) => client.addEventListener('transport', ({ detail }) => detail && resolve()));
  opened[0].finish({ code: 4900, reason: 'replaced' });
  await Promise.race([back, client.closed]);
  assert.equal(client.status, 'open');
  assert.equal(opened.length, 2);
});
