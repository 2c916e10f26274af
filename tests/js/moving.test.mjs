/** A client that moves to a better transport. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Client } from '../../client/js/client.js';
import { FulmarError } from '../../client/js/errors.js';
import { connected, listen } from './connected.mjs';
import { Memory, clock, settled } from './memory.mjs';

describe('moving to a better transport', () => {
  const transports = ['webtransport', 'websocket'];

  test('loses nothing and tells nothing twice', async (context) => {
    let blocked = true;
    const { time, server, client, line, of } = connected(context, { transports, open: (transport) => {
      if (transport === 'webtransport' && blocked) throw new FulmarError('unreachable', 'UDP is blocked.');
    } });
    const { got, subscription } = listen(client, 'event:a');
    const state = client.state('state:a');
    await subscription.ready;
    server.publish('event:a', 1);
    server.publish('state:a', 'x', 'k');
    blocked = false;
    const before = line();
    await time.pass(5100);
    assert.equal(client.transport, 'webtransport');
    server.publish('event:a', 2);
    server.publish('state:a', 'y', 'k');
    await settled();
    assert.deepEqual(got, [1, 2]);
    assert.equal(state.get('k'), 'y');
    assert.equal(client.moves, 1);
    assert.equal(client.reconnects, 0);
    assert.equal(before.open, false);
    assert.deepEqual(of('status'), ['connecting', 'open']);
    assert.deepEqual(of('transport'), ['websocket', 'webtransport']);
    const { outcome } = client.attempts.find(({ transport }) => transport === 'websocket');
    assert.equal(outcome, 'open');
  });

  test('a worse one that opens late is closed', async (context) => {
    const opening = {};
    const { time, client, server } = connected(context, { transports,
      open: (transport) => new Promise((resolve) => (opening[transport] = resolve)) });
    await time.pass(500);
    opening.webtransport();
    await client.ready;
    opening.websocket();
    await settled();
    assert.equal(client.transport, 'webtransport');
    assert.equal(client.moves, 0);
    assert.deepEqual(server.lines.map(({ transport, open }) => [transport, open]), [['webtransport', true], ['websocket', false]]);
  });

  test('is tried ever less often', async (context) => {
    const { time, dialled } = connected(context, { transports, open: (transport) => {
      if (transport === 'webtransport') throw new FulmarError('unreachable', 'UDP is blocked.');
    } });
    await time.pass(180_000, 100);
    const at = dialled.filter(({ transport }) => transport === 'webtransport').map((attempt) => attempt.at);
    const pauses = at.slice(1).map((each, i) => Math.round((each - at[i]) / 1000));
    assert.deepEqual(pauses, [5, 10, 20, 40, 80]);
  });

  test('is tried at once in another network', async (context) => {
    let blocked = true;
    const { time, client, dialled } = connected(context, { transports, open: (transport) => {
      if (transport === 'webtransport' && blocked) throw new FulmarError('unreachable', 'UDP is blocked.');
    } });
    await time.pass(60_000, 500);
    const before = dialled.length;
    blocked = false;
    client.networkChanged();
    await settled();
    assert.equal(client.transport, 'webtransport');
    assert.equal(dialled.length, before + 1);
    client.networkChanged();
    await settled();
    assert.equal(dialled.length, before + 1, 'there is no better one');
  });

  test('a better one that fails under way leaves what there is', async (context) => {
    let blocked = true;
    const { time, server, client } = connected(context, { transports, open: (transport) => {
      if (transport === 'webtransport' && blocked) throw new FulmarError('unreachable', 'UDP is blocked.');
    } });
    const { got, subscription } = listen(client, 'event:a');
    await subscription.ready;
    server.publish('event:a', 1);
    blocked = false;
    // It opens, and then nothing comes over it.
    server.intercept = (line) => line.transport === 'webtransport';
    await time.pass(5100);
    assert.equal(client.transport, 'webtransport');
    server.publish('event:a', 2);
    await settled();
    assert.deepEqual(got, [1, 2], 'the one before is heard until the new one has said something');
    blocked = true;
    server.lines.at(-1).end({ code: 1006, reason: 'UDP is cut off' });
    server.publish('event:a', 3);
    await time.pass(1000);
    server.publish('event:a', 4);
    await settled();
    assert.deepEqual(got, [1, 2, 3, 4]);
    assert.equal(client.transport, 'websocket');
  });
});

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
