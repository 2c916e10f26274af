/** What a live state holds when a value came by datagram before its stream's first word. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Client } from '../../client/js/client.js';

/** A connection on which nothing is said but what the test says. */
function silent() {
  let end;
  const closed = new Promise((resolve) => (end = resolve));
  return {
    transport: 'webtransport', serial: 1, open: true, heard: performance.now(), quiet: 1e6, patience: 1e6, closed,
    identify() {}, received: {}, end, close: () => end({ code: 1000, reason: '' }), probe: () => false, has: () => false, entry: () => null, subscribe: async () => ({}),
  };
}

test('it has that value when the snapshot has come without it', async (t) => {
  const connection = silent();
  const client = new Client('http://server', ['webtransport'], async () => connection);
  t.after(() => client.close());
  client.run();
  await client.ready;
  const state = client.state('state:x');
  await setImmediate();
  const at = { channel: 'state:x', epoch: 'e' };
  connection.onmessage({ type: 'publication', ...at, offset: 1, time: 1, key: 'early', removed: false, data: 'by datagram' });
  connection.onmessage({ type: 'reset', ...at, offset: 0 });
  connection.onmessage({ type: 'synced', ...at, offset: 0 });
  assert.deepEqual([...state], [['early', 'by datagram']]);
});

test('it has that value too where the channel was subscribed to before it was asked for as state', async (t) => {
  let answer;
  const connection = { ...silent(), subscribe: () => new Promise((resolve) => (answer = resolve)) };
  const client = new Client('http://early', ['webtransport'], async () => connection);
  t.after(() => client.close());
  client.run();
  await client.ready;
  const subscription = client.subscribe('state:x', { onPublication() {} });
  const at = { channel: 'state:x', epoch: 'e' };
  await setImmediate();
  connection.onmessage({ type: 'publication', ...at, offset: 1, time: 1, key: 'early', removed: false, data: 'by datagram' });
  answer({});
  await subscription.ready;
  connection.onmessage({ type: 'publication', ...at, offset: 2, time: 1, key: 'later', removed: false, data: 'behind the answer' });
  const state = client.state('state:x');
  connection.onmessage({ type: 'reset', ...at, offset: 0 });
  connection.onmessage({ type: 'synced', ...at, offset: 0 });
  assert.deepEqual([...state], [['early', 'by datagram'], ['later', 'behind the answer']]);
});

test('of a server that was restarted it has the values that overtook the reset', async (t) => {
  const first = silent();
  const next = { ...silent(), serial: 2 };
  const dialled = [first, next];
  const client = new Client('http://restarted', ['webtransport'], async () => dialled.shift());
  t.after(() => client.close());
  client.run();
  await client.ready;
  const told = [];
  client.subscribe('state:x', { onPublication: ({ key, data }) => told.push(`${key} ${data}`) });
  const state = client.state('state:x');
  await setImmediate();
  const old = { channel: 'state:x', epoch: 'e' };
  first.entry = () => ({ hash: '', epoch: 'e', offset: 9 });
  first.onmessage({ type: 'reset', ...old, offset: 0 });
  first.onmessage({ type: 'publication', ...old, offset: 9, time: 1, key: 'k', removed: false, data: 'old' });
  first.onmessage({ type: 'synced', ...old, offset: 9 });
  first.open = false;
  first.end({ code: 1006, reason: 'restarted' });
  while (client.status !== 'waiting') await setImmediate();
  client.wake();
  while (client.status !== 'open') await setImmediate();
  await setImmediate();
  const at = { channel: 'state:x', epoch: 'e2' };
  next.onmessage({ type: 'publication', ...at, offset: 3, time: 1, key: 'k', removed: false, data: 'new' });
  next.onmessage({ type: 'reset', ...at, offset: 2 });
  next.onmessage({ type: 'synced', ...at, offset: 2 });
  assert.deepEqual([...state], [['k', 'new']]);
  assert.deepEqual(told, ['k old', 'k new']);
});

test('a channel is subscribed to on a better connection though the one before never answers', async (t) => {
  const before = { ...silent(), transport: 'websocket', subscribe: () => new Promise(() => {}) };
  const better = { ...silent(), serial: 2 };
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let open;
  const opened = new Promise((resolve) => (open = () => resolve(better)));
  const client = new Client('http://other', ['webtransport', 'websocket'], async (transport) => (transport === 'websocket' ? before : opened));
  t.after(() => client.close());
  const subscription = client.subscribe('event:x', {});
  client.run();
  t.mock.timers.tick(500);
  await client.ready;
  open();
  await setImmediate();
  assert.equal(client.transport, 'webtransport');
  let taken = false;
  subscription.ready.then(() => { taken = true; });
  await setImmediate();
  assert.ok(taken);
});
