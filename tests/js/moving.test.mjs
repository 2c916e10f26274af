/** What was under way on the connection that is left. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client } from '../../client/js/client.js';
import { Memory, clock, settled } from './memory.mjs';

/** A client over WebSocket, behind which WebTransport is being dialled, and what opens that. */
async function overWebSocket(t, prepare) {
  const time = clock(t);
  const memory = new Memory();
  const it = { memory, time, wanted: [] };
  const client = new Client(`http://${Math.random()}`, ['webtransport', 'websocket'], (transport, wanted) => {
    if (transport === 'websocket') return Promise.resolve(memory.accept(transport));
    it.wanted.push(wanted);
    return new Promise((resolve) => { it.moveUp = () => resolve(memory.accept(transport)); });
  });
  t.after(() => client.close());
  Object.assign(it, { client, subscription: prepare(client) });
  client.run();
  await settled();
  await time.pass(500);
  await settled();
  assert.equal(client.transport, 'websocket');
  return it;
}

test('an iterator that has caught up during the move is read for again', async (t) => {
  const { memory, client, subscription, moveUp } = await overWebSocket(t, (one) => one.subscribe('event:a'));
  // Nothing answers the unsubscribe by which it paused.
  memory.intercept = (line, { type }) => type === 'unsubscribe' && line.transport === 'websocket';
  for (let i = 1; i <= 300; i++) memory.publish('event:a', i);
  await settled();
  const values = subscription[Symbol.asyncIterator]();
  for (let i = 1; i <= 300; i++) assert.equal((await values.next()).value.data, i);
  moveUp();
  await settled(10);
  assert.equal(client.transport, 'webtransport');
  memory.publish('event:a', 301);
  await settled();
  assert.equal((await values.next()).value.data, 301);
});

test('a channel that was left on a connection that is dead can be had on the next', async (t) => {
  const { memory, client, subscription, moveUp } = await overWebSocket(t, (one) => one.subscribe('event:a', { onPublication() {} }));
  const [dead] = memory.lines;
  // Nor does it end: closing a WebSocket on a dead network takes the browser's time.
  dead.close = () => {};
  dead.session = 'unheard of';
  memory.intercept = (line) => line === dead;
  subscription.unsubscribe();
  await settled();
  moveUp();
  await settled(10);
  assert.equal(client.transport, 'webtransport');
  const again = client.subscribe('event:a', { onPublication() {} });
  await settled(10);
  assert.ok(memory.lines[1].said.some(({ type, channel }) => type === 'subscribe' && channel === 'event:a'));
  await again.ready;
});

test('a connection that is to take over is asked for nothing before it has opened', async (t) => {
  const { client, wanted } = await overWebSocket(t, (one) => one.subscribe('event:a', { onPublication() {} }));
  assert.equal(client.transport, 'websocket');
  assert.deepEqual(wanted[0](), []);
  client.close();
});
