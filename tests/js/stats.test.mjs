import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { open } from '../../client/js/fulmar.js';
import { Client } from '../../client/js/client.js';
import { FulmarError } from '../../client/js/errors.js';
import { createAcks } from '../../client/js/acks.js';
import { createReceiver } from '../../client/js/receiver.js';
import { Meter } from '../../client/js/stats.js';
import { decodeClient, encodeServer } from './peer.mjs';
import { Line, Memory, clock, settled } from './memory.mjs';

describe('datagrams of state', () => {
  function receiving() {
    const counts = { late: 0, lost: 0, repaired: 0 };
    const receiver = createReceiver(() => {}, counts);
    const acks = createAcks(async () => {});
    for (const type of ['subscribed', 'reset', 'synced']) {
      receiver.take(receiver.resolve({ type, alias: 1, epoch: 'e', channel: 'state:a', offset: 0 }));
    }
    /** A frame of keys with their offset and time. */
    const take = (number, ...values) => {
      const entries = values.map(([key, offset, published]) => ({ alias: 1, low: 0, offset, time: published, key, removed: false, data: key }));
      const frame = { type: 'values', number, entries };
      receiver.arrived(frame, acks.has(number));
      acks.take(number, () => receiver.apply(frame, true));
      return [counts.late, counts.lost, counts.repaired];
    };
    return { take, receiver, counts };
  }

  test('numbers left out are lost until they come late', () => {
    const { take } = receiving();
    assert.deepEqual(take(1), [0, 0, 0]);
    assert.deepEqual(take(2), [0, 0, 0]);
    assert.deepEqual(take(5), [0, 2, 0]);
    assert.deepEqual(take(4), [1, 1, 0]);
    assert.deepEqual(take(4), [1, 1, 0], 'the same once more');
    assert.deepEqual(take(5), [1, 1, 0]);
    assert.deepEqual(take(6), [1, 1, 0]);
  });

  test('the first may be lost too', () => {
    const { take } = receiving();
    assert.deepEqual(take(3), [0, 2, 0]);
  });

  test('what had been published when one was lost, and comes later, is repaired', () => {
    const { take, receiver, counts } = receiving();
    assert.deepEqual(take(1, ['a', 1, 10]), [0, 0, 0]);
    // 2 had b at 20.
    assert.deepEqual(take(3, ['c', 3, 30], ['older', 2, 19]), [0, 1, 0], 'of the same moment');
    assert.deepEqual(take(4, ['d', 5, 50], ['b', 4, 20]), [0, 1, 1]);
    assert.deepEqual(take(5, ['b', 4, 20]), [0, 1, 1], 'nothing new');
    assert.deepEqual(take(2, ['x', 6, 20]), [1, 0, 1], 'late is not anew');
    receiver.apply({ number: 1, entries: [{ alias: 1, low: 0, offset: 9, time: 20, key: 'y', removed: false, data: 1 }] });
    assert.equal(counts.repaired, 1, 'a stream repairs nothing');
  });
});

describe('the meter', () => {
  test('jitter is that of RFC 3550', (context) => {
    const time = clock(context);
    const meter = new Meter();
    meter.use(new Line('websocket'));
    const arrive = (published, after) => {
      time.sleep(after);
      meter.arrived(published);
      return meter.jitter;
    };
    // The server's clock reads 500,000 when ours reads 1000, and it takes 10 ms at least.
    assert.equal(arrive(500_000, 10), null);
    assert.equal(arrive(500_100, 100), 0);
    assert.equal(arrive(500_200, 116), 1, 'a sixteenth of 16 ms');
    assert.equal(arrive(500_300, 84), 1 + (16 - 1) / 16);
    assert.equal(arrive(400_000, 0), 1 + (16 - 1) / 16, 'what is from long ago does not count');
    assert.equal(arrive(500_400, 100), (1 + 15 / 16) * 15 / 16, 'nor for the one after it');
  });

  test('what was published before the connection does not count, also where it comes first', (context) => {
    const time = clock(context);
    const meter = new Meter();
    meter.use(new Line('websocket'));
    for (const published of [1000, 200_000, 300_000]) meter.arrived(published);
    time.sleep(10);
    meter.arrived(500_010);
    time.sleep(10);
    meter.arrived(500_020);
    assert.equal(meter.jitter, 0);
    time.sleep(5000);
    meter.use(new Line('websocket'));
    time.sleep(1000);
    meter.arrived(502_000);
    meter.arrived(506_020);
    assert.equal(meter.jitter, 0, 'missed, and late by the pause');
  });

  test('counts of connections that are gone stay', async () => {
    const meter = new Meter();
    const lines = [new Line('websocket'), new Line('websocket')];
    for (const line of lines) meter.use(line);
    Object.assign(lines[0].received, { bytes: 1, sent: 2, publications: 3, datagrams: 4, late: 5, lost: 6, repaired: 7 });
    lines[1].received.bytes = 10;
    const all = { bytes: 11, sent: 2, publications: 3, datagrams: 4, late: 5, lost: 6, repaired: 7 };
    assert.deepEqual(meter.counts, all);
    lines[0].end({ code: 1006, reason: '' });
    await settled();
    assert.deepEqual(meter.counts, all);
    lines[1].received.bytes = 20;
    assert.deepEqual(meter.counts, { ...all, bytes: 21 });
  });
});

test('client.stats()', async (context) => {
  const time = clock(context);
  context.mock.method(Math, 'random', () => 0.5);
  const server = new Memory();
  const began = Date.now();
  let blocked = true;
  const client = new Client('http://stats', ['webtransport', 'websocket'], async (transport) => {
    if (transport === 'webtransport' && blocked) throw new FulmarError('unreachable', 'UDP is blocked.');
    return server.accept(transport);
  });
  context.after(() => client.close());
  assert.deepEqual(client.stats(), {
    transport: null, status: 'waiting', since: began, rtt: null, jitter: null, stateAge: null,
    datagrams: { received: 0, late: 0, lost: 0, repaired: 0 }, bytes: { received: 0, sent: 0 }, publications: 0,
    reconnects: 0, moves: 0, gaps: 0, pending: 0, attempts: [],
  });
  client.run();
  const subscription = client.subscribe('event:a', { onPublication() {} });
  const waiting = client.publish('event:a', 1);
  assert.equal(client.stats().pending, 1);
  await time.pass(50);
  await subscription.ready;
  await waiting;
  const opened = client.stats();
  assert.deepEqual([opened.transport, opened.status, opened.pending], ['websocket', 'open', 0]);
  assert.deepEqual(opened.attempts.map(({ transport, outcome, reason }) => [transport, outcome, reason]),
    [['webtransport', 'failed', 'UDP is blocked.'], ['websocket', 'open', undefined]]);
  assert.deepEqual(opened.rtt, { last: 0, least: 0, smoothed: 0 });
  assert.equal(JSON.stringify(opened), JSON.stringify(structuredClone(opened)), 'a plain object');

  // A round trip of 80 ms.
  server.intercept = (line, { type }) => {
    if (type !== 'publish') return false;
    time.sleep(80);
    return false;
  };
  await client.publish('event:a', 2);
  server.intercept = () => false;
  assert.deepEqual(client.stats().rtt, { last: 80, least: 0, smoothed: 10 });

  const state = client.state('state:a');
  await state.ready;
  assert.equal(client.stats().stateAge, null);
  server.publish('state:a', 'x', 'k', { time: Date.now() - 3000 });
  server.publish('state:a', 'older', 'l', { time: Date.now() - 9000 });
  assert.equal(client.stats().stateAge, 3000);
  await time.pass(1000);
  assert.equal(client.stats().stateAge, 4000);
  server.publish('state:a', 'y', 'k', { time: Date.now() + 500 });
  assert.equal(client.stats().stateAge, 0, 'of a clock that goes ahead');

  const { publications } = client.stats();
  blocked = false;
  await time.pass(5000);
  assert.deepEqual([client.stats().transport, client.stats().moves, client.stats().reconnects], ['webtransport', 1, 0]);
  blocked = true;
  server.lines.at(-1).end({ code: 1006, reason: 'cut off' });
  await settled();
  const { status, since } = client.stats();
  assert.deepEqual([status, since, client.stats().rtt], ['waiting', Date.now(), null]);
  server.renew('event:a');
  server.publish('event:a', 3);
  await time.pass(1000);
  const after = client.stats();
  assert.deepEqual([after.reconnects, after.gaps, after.status], [1, 1, 'open']);
  assert.equal(after.publications, publications + 1, 'of all connections');
});

test('bytes are those of messages, both ways', async () => {
  let sent = 0, received = 0;
  class Socket {
    constructor() {
      queueMicrotask(() => this.onopen());
    }
    send(data) {
      sent += data.byteLength;
      const { ref, type } = decodeClient(data);
      const answer = encodeServer(type === 'ping' ? { type: 'pong', ref } : { type: 'published', ref, channel: 'event:a', epoch: 'e', offset: 1 });
      received += answer.byteLength;
      queueMicrotask(() => this.onmessage({ data: answer.slice().buffer }));
    }
    close() {}
  }
  const connection = await open('websocket', { base: 'http://h', WebSocket: Socket });
  await connection.ping();
  await connection.publish('event:a', { data: 'x'.repeat(500) });
  assert.ok(sent > 500);
  assert.deepEqual([connection.received.sent, connection.received.bytes], [sent, received]);
});
