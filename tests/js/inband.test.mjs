import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { buildCursor, open } from '../../client/js/fulmar.js';
import { createSplitter, prefixed, splitDatagram } from '../../client/js/framing.js';
import { PART } from '../../client/js/values.js';
import { encodeClient } from '../../client/js/wire.js';
import { decodeClient, encodeServer } from './peer.mjs';

const state = (key, offset, data) => (
  { type: 'publication', channel: 'state:a', epoch: 'e', alias: 1, offset, time: 1, key, removed: false, data });
const control = (type, offset) => ({ type, channel: 'state:a', epoch: 'e', alias: 1, offset });
const entry = (key, offset, low, data, alias = 1) => ({ alias, low, offset, time: 1, key, removed: false, data });
const low = (offset) => ({ alias: 1, low: offset });
const values = (number, ...entries) => ({ type: 'values', number, entries });
const at = (offset) => buildCursor([{ channel: 'state:a', epoch: 'e', offset }]);
const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
async function until(holds, what) {
  for (let turns = 0; !holds(); turns++) {
    assert.ok(turns < 400, what());
    await turn();
  }
}

/** A stream as the page sees it, and what the server does with it. */
class FakeStream {
  got = [];
  #splitter = createSplitter();
  constructor(answer) {
    this.readable = new ReadableStream({ start: (controller) => (this.controller = controller) });
    this.writable = new WritableStream({
      write: (chunk) => {
        for (const frame of this.#splitter.push(chunk)) {
          const message = decodeClient(frame);
          this.got.push(message);
          answer(message, this);
        }
      },
    });
  }
  say(...messages) {
    for (const message of messages) this.controller.enqueue(prefixed(encodeServer(message)));
  }
}

function fakeWebTransport(answer) {
  const made = [];
  class FakeWebTransport {
    ready = Promise.resolve();
    streams = [];
    constructor(url, init) {
      Object.assign(this, { url, init });
      this.closed = new Promise((resolve) => (this.end = resolve));
      const readable = new ReadableStream({ start: (controller) => (this.datagram = controller) });
      const writable = new WritableStream({ write: (datagram) => this.written(datagram) });
      // The older name, or the newer one.
      const outgoing = made.length % 2 ? { createWritable: () => writable } : { writable };
      this.datagrams = { readable, incomingHighWaterMark: 1, ...outgoing };
      made.push(this);
    }
    /** What came of the client's datagrams. */
    got = [];
    async written(datagram) {
      this.got.push(...splitDatagram(datagram).map(decodeClient));
    }
    async createBidirectionalStream() {
      const stream = new FakeStream(answer);
      this.streams.push(stream);
      return stream;
    }
    send(...messages) {
      this.datagram.enqueue(Uint8Array.from(messages.flatMap((message) => [...prefixed(encodeServer(message))])));
    }
    close({ closeCode = 0, reason = '' } = {}) {
      this.end({ closeCode, reason });
    }
  }
  return { made, WebTransport: FakeWebTransport };
}

const connect = async () => Response.json({ webtransport: {
  url: 'https://127.0.0.1:1/wt', certificate_hashes: [{ algorithm: 'sha-256', value: 'AQID' }] } });

const answers = (message, stream) => {
  if (message.type === 'ping') stream.say({ type: 'pong', ref: message.ref });
  if (message.type === 'subscribe' && message.channel === 'state:a') {
    stream.say({ ...control('subscribed', 0), ref: message.ref }, control('reset', 0), state('k', 2, 'two'), control('synced', 2));
  } else if (message.type === 'subscribe') {
    stream.say({ type: 'error', ref: message.ref, error: { code: 'forbidden', message: 'No.' } });
  }
  if (message.type === 'attach' && message.secret === 'the-id.the-secret') {
    stream.say({ type: 'attached', ref: message.ref, session: 'its-id', resumed: !message.fresh });
  } else if (message.type === 'attach') {
    stream.say({ type: 'error', ref: message.ref, error: { code: 'unknown_session', message: 'No.' } });
  }
  if (message.type === 'unsubscribe') stream.say({ type: 'unsubscribed', ref: message.ref, channel: message.channel });
  if (message.type === 'publish') {
    stream.say({ type: 'published', ref: message.ref, channel: message.channel, epoch: 'e', offset: 7 });
  }
};

describe('WebTransport', () => {
  async function opened(answer = answers, options = {}) {
    const { made, WebTransport } = fakeWebTransport(answer);
    const messages = [];
    const connection = await open('webtransport', {
      ...options, base: 'http://h', fetch: connect, WebTransport, onmessage: (message) => messages.push(message) });
    return { session: made[0], connection, messages };
  }

  test('the control stream exists at once, and each subscription has its own', async () => {
    const { session, connection } = await opened();
    assert.deepEqual([...session.init.serverCertificateHashes[0].value], [1, 2, 3]);
    assert.equal(session.datagrams.incomingHighWaterMark > 1, true);
    await connection.subscribe('state:a', { after: at(1) });
    assert.deepEqual(session.streams.map(({ got }) => got.map(({ type }) => type)), [['ping'], ['subscribe']]);
    assert.equal(session.streams[1].got[0].after, at(1));
    assert.equal((await connection.publish('event:x', { data: 1 })).offset, 7);
    await assert.rejects(connection.subscribe('state:a'), { code: 'already_subscribed' });
    await assert.rejects(connection.subscribe('host:x'), { code: 'forbidden' });
    await connection.unsubscribe('state:a');
    assert.equal(connection.cursor, null);
    connection.close();
  });

  test('an attach is the first on its connection where it was promised', async () => {
    const { session, connection } = await opened(answers, { attach: true });
    assert.equal(session.url, 'https://127.0.0.1:1/wt?attach');
    const [attached] = await Promise.all([
      connection.attach('the-id.the-secret', { fresh: true }), connection.subscribe('state:a')]);
    assert.deepEqual(attached, { type: 'attached', ref: 17, session: 'its-id', resumed: false });
    assert.deepEqual(session.streams.map(({ got }) => got.map(({ type }) => type)), [['attach'], ['subscribe']]);
    assert.deepEqual(session.streams[0].got[0], { type: 'attach', ref: 17, secret: 'the-id.the-secret', fresh: true });
    await assert.rejects(connection.attach('no-secret'), { code: 'unknown_session' });
    assert.equal((await opened()).session.url, 'https://127.0.0.1:1/wt');
    connection.close();
  });

  test('datagrams that come before their alias are kept for it', async () => {
    const { session, connection, messages } = await opened();
    for (let i = 0; i < 70; i++) session.send(state(`early${i}`, 100 + i, i));
    await until(() => connection.received.datagrams === 70, () => `${connection.received.datagrams} datagrams`);
    assert.equal(messages.length, 0);
    await connection.subscribe('state:a');
    await turn();
    const early = messages.filter(({ key }) => key?.startsWith('early'));
    assert.equal(early.length, 64);
    assert.equal(early.at(-1).key, 'early69');
    assert.equal(connection.received.datagrams, 70);
    connection.close();
  });

  test('a datagram that comes after an unsubscription is not kept for the next subscription', async () => {
    const { session, connection, messages } = await opened();
    await connection.subscribe('state:a');
    await connection.unsubscribe('state:a');
    session.send(state('late', 9, 'late'));
    await turn();
    await connection.subscribe('state:a');
    await turn();
    assert.deepEqual(messages.filter(({ key }) => key === 'late'), []);
    connection.close();
  });

  test('whatever comes is a sign of life', async () => {
    const { session, connection } = await opened();
    await connection.subscribe('state:a');
    await turn();
    for (const say of [() => session.send(values(1, entry('k', 9, 2, 'nine'))), () => session.streams[1].say(values(1, entry('l', 10, 2, 'ten')))]) {
      const before = connection.heard;
      await turn();
      say();
      await turn();
      assert.ok(connection.heard > before);
    }
    connection.close();
  });

  test('nothing is acknowledged any more once it is closed', async () => {
    const { session, connection } = await opened();
    await connection.subscribe('state:a');
    await turn();
    session.send(values(1, entry('k', 9, 2, 'nine')));
    await turn();
    connection.close();
    const { sent } = connection.received;
    await new Promise((resolve) => setTimeout(resolve, 30));
    assert.deepEqual([session.got, connection.received.sent], [[], sent]);
  });

  test('who takes a cursor while an event is handed over goes on behind it', async () => {
    const { session, connection } = await opened();
    const cursors = [];
    connection.onmessage = () => cursors.push(connection.cursor);
    await connection.subscribe('state:a');
    await turn();
    cursors.length = 0;
    session.streams[1].say(state('m', 8, 'one'), state('m', 9, 'another'));
    await turn();
    assert.deepEqual(cursors, [at(8), at(9)]);
    connection.close();
  });

  test('only what comes on the stream moves the cursor', async () => {
    const { session, connection } = await opened();
    await connection.subscribe('state:a');
    await turn();
    assert.equal(connection.cursor, at(2));
    session.send(state('k', 9, 'nine'), state('l', 10, 'ten'));
    await turn();
    assert.equal(connection.cursor, at(2));
    session.streams[1].say(state('m', 8, 'large'));
    await turn();
    assert.equal(connection.cursor, at(8));
    connection.close();
  });

  /** Once the session has got as many acknowledgements. */
  const acks = async (session, count) => {
    await until(() => session.got.length >= count, () => `${session.got.length} of ${count} acknowledgements`);
    return session.got.map(({ newest, bitmap }) => [newest, bitmap]);
  };

  test('values that come by datagram are given on and acknowledged, and their low-water offset is the cursor', async () => {
    const { session, connection, messages } = await opened();
    await connection.subscribe('state:a');
    await turn();
    session.send(values(1, entry('k', 9, 2, 'nine'), entry('l', 5, 2, 'five')));
    assert.deepEqual(await acks(session, 1), [[1, 0n]]);
    assert.deepEqual(messages.slice(3).map(({ type, channel, epoch, key, offset, data }) => [type, channel, epoch, key, offset, data]),
      [['publication', 'state:a', 'e', 'k', 9, 'nine'], ['publication', 'state:a', 'e', 'l', 5, 'five']]);
    assert.equal(connection.cursor, at(2));
    session.send(values(2, low(5)));
    assert.deepEqual((await acks(session, 2))[1], [2, 1n]);
    assert.equal(connection.cursor, at(5));
    session.send(values(4, entry('k', 8, 4, 'older'), entry('l', 11, 4, 'eleven')));
    assert.deepEqual((await acks(session, 3))[2], [4, 0b110n]);
    assert.equal(connection.cursor, at(5));
    assert.deepEqual(messages.slice(5).map(({ offset }) => offset), [11]);
    session.send(values(4, low(11)));
    assert.deepEqual((await acks(session, 4))[3], [4, 0b110n], 'the same number is the same frame');
    assert.equal(connection.cursor, at(5));
    assert.equal(connection.received.publications, 4);
    connection.close();
  });

  test('frames of values wait for `subscribed`, and are acknowledged then', async () => {
    const { session, connection, messages } = await opened();
    for (let number = 1; number <= 70; number++) session.send(values(number, entry(`early${number}`, 100 + number, 99, number)));
    await until(() => connection.received.datagrams === 70, () => `${connection.received.datagrams} datagrams`);
    assert.deepEqual([messages, session.got], [[], []]);
    await connection.subscribe('state:a');
    assert.deepEqual(await acks(session, 1), [[70, 2n ** 62n - 1n]], 'six were pushed out, and one more is beyond the bitmap');
    await turn();
    const early = messages.filter(({ key }) => key?.startsWith('early'));
    assert.deepEqual(early.map(({ data }) => data), Array.from({ length: 64 }, (_, i) => i + 7));
    assert.equal(connection.cursor, at(2), 'the low-water offset came before `synced`');
    await connection.unsubscribe('state:a');
    const count = messages.length;
    session.send(values(71, entry('k', 200, 99, 1)));
    await turn();
    assert.equal(messages.length, count, 'what comes after an unsubscription is not given on');
    assert.equal(session.got.length, 1);
    await connection.subscribe('state:a');
    assert.deepEqual((await acks(session, 2))[1][0], 71, 'it could have been of the next subscription');
    connection.close();
  });

  test('what came late, what is lost and what came anew is counted, and the bytes both ways', async () => {
    const { session, connection } = await opened();
    await connection.subscribe('state:a');
    await turn();
    session.send(values(1, low(2)));
    session.send(values(4, { ...entry('j', 8, 2, 'eight'), time: 20 }));
    session.send(values(3, low(2)));
    session.send(values(3, low(2)));
    session.send(values(5, { ...entry('l', 10, 2, 'ten'), time: 25 }, entry('k', 9, 2, 'nine')));
    // Of a channel that is not known yet: it is counted when it comes, and not again when it is taken.
    session.send(values(7, entry('k', 3, 2, 'early', 77)));
    await until(() => connection.received.datagrams === 6, () => `${connection.received.datagrams} datagrams`);
    session.streams[1].say(control('synced', 2));
    await turn();
    const { late, lost, repaired, bytes } = connection.received;
    assert.deepEqual({ late, lost, repaired }, { late: 1, lost: 2, repaired: 1 });
    const arrived = () => [...session.got, ...session.streams.flatMap(({ got }) => got)]
      .reduce((sum, message) => sum + prefixed(encodeClient(message)).length, 0);
    await until(() => session.got.length > 0 && connection.received.sent === arrived(),
      () => `${connection.received.sent} bytes sent, ${arrived()} arrived`);
    assert.ok(bytes > 0);
    connection.close();
  });

  test('values on a stream are given on and acknowledged there', async () => {
    const { session, connection, messages } = await opened();
    await connection.subscribe('state:a');
    const large = 'x'.repeat(20_000);
    session.streams[1].say(values(1, entry('large', 4, 3, large)), values(2, low(4)));
    await turn();
    assert.equal(messages.at(-1).data, large);
    assert.equal(connection.cursor, at(4));
    const answered = session.streams[1].got.filter(({ type }) => type === 'ack');
    assert.deepEqual(answered.at(-1), { type: 'ack', newest: 2, bitmap: 0n });
    assert.deepEqual(session.got, []);
    session.streams[1].say(values(4, low(5)));
    assert.equal((await connection.closed).code, 4901, 'a stream leaves out no number');
  });

  test('a value in parts is given on when it is whole', async () => {
    const { session, connection, messages } = await opened();
    await connection.subscribe('state:a');
    await turn();
    const json = { text: 'ä'.repeat(1200) };
    const bytes = new TextEncoder().encode(JSON.stringify(json));
    const part = (index) => ({ alias: 1, low: 2, offset: 7, time: 1, key: 'p', removed: false,
      part: { kind: 2, index, length: bytes.length, bytes: bytes.slice(index * PART, (index + 1) * PART) } });
    for (const index of [2, 0, 1]) session.send(values(3 - index, part(index)));
    await acks(session, 1);
    assert.deepEqual(messages.at(-1).data, json);
    connection.close();
  });

  test('low-water offsets count from the first frame of values on the stream', async () => {
    const { session, connection, messages } = await opened((message, stream) => {
      if (message.type === 'ping') answers(message, stream);
    });
    const subscribing = connection.subscribe('state:resumed', { position: { epoch: 'e', offset: 4 } });
    await turn();
    const [{ ref }] = session.streams[1].got;
    const told = (type, offset) => ({ ...control(type, offset), alias: 5, channel: 'state:resumed' });
    session.streams[1].say({ ...told('subscribed', 4), ref }, { ...state('k', 6, 'six'), alias: 5, channel: undefined });
    await subscribing;
    session.send(values(1, { alias: 5, low: 9 }));
    await acks(session, 1);
    const cursorAt = (offset) => buildCursor([{ channel: 'state:resumed', epoch: 'e', offset }]);
    assert.equal(connection.cursor, cursorAt(6));
    session.streams[1].say(values(1, { alias: 5, low: 7 }));
    await turn();
    assert.equal(connection.cursor, cursorAt(7));
    session.send(values(2, { alias: 5, low: 9 }));
    await acks(session, 2);
    assert.equal(connection.cursor, cursorAt(9));
    assert.deepEqual(messages.map(({ type }) => type), ['publication']);
    session.streams[1].say(told('reset', 12), told('synced', 12));
    await turn();
    assert.deepEqual(messages.map(({ type }) => type), ['publication', 'reset', 'synced']);
    connection.close();
  });

  test('an acknowledgement that waits goes with what is sent', async (context) => {
    const { session, connection } = await opened();
    await connection.subscribe('state:a');
    context.mock.timers.enable({ apis: ['setTimeout'] });
    const reads = async () => { for (let i = 0; i < 5; i++) await new Promise(setImmediate); };
    await reads();
    session.send(values(1, entry('k', 9, 2, 1)));
    await reads();
    assert.deepEqual(session.got, [], 'it waits for more');
    connection.publish('event:x', { data: 1 });
    await reads();
    assert.deepEqual(session.got, [{ type: 'ack', newest: 1, bitmap: 0n }]);
    connection.close();
  });

  test('acknowledgements pile up nowhere', async () => {
    const { session, connection } = await opened();
    await connection.subscribe('state:a');
    await turn();
    let written = 0, release;
    const held = new Promise((resolve) => (release = resolve));
    session.written = (datagram) => {
      written++;
      session.got.push(...splitDatagram(datagram).map(decodeClient));
      return held;
    };
    for (let number = 2; number < 60; number += 2) {
      session.send(values(number, low(3)));
      connection.ping().catch(() => {});
      await turn();
    }
    assert.equal(written, 1, 'the stream takes one at a time');
    release();
    await acks(session, 5);
    const newest = session.got.map((ack) => ack.newest);
    assert.ok(newest.at(-1) > newest[3], 'the last says more than those that waited');
    assert.ok(newest.length <= 6, `${newest}`);
    connection.close();
  });

  test('a session that takes no datagrams does without acknowledgements', async () => {
    const { session, connection, messages } = await opened();
    await connection.subscribe('state:a');
    await turn();
    Object.assign(session.datagrams, { writable: undefined, createWritable: () => { throw new Error('none'); } });
    session.send(values(1, entry('k', 9, 2, 1)));
    session.send(values(2, entry('k', 10, 2, 2)));
    await turn();
    await turn();
    await turn();
    assert.equal(messages.at(-1).offset, 10);
    assert.equal(connection.open, true);
    connection.close();
  });

  test('a ping is answered, and a close in-band tells what the session does not', async () => {
    const { session, connection } = await opened();
    session.streams[0].say({ type: 'ping', ref: 3 }, { type: 'close', code: 4000, reason: 'stopping', retry_ms: 700 });
    await turn();
    assert.deepEqual(session.streams[0].got.at(-1), { type: 'pong', ref: 3 });
    const waiting = connection.subscribe('event:never');
    session.end({ closeCode: 0, reason: '' });
    assert.deepEqual(await connection.closed, { code: 4000, reason: 'stopping', retry: 700 });
    await assert.rejects(waiting, Error);
  });

  test('a stream that is refused for the moment is asked for again', async () => {
    const { session, connection } = await opened();
    const create = session.createBidirectionalStream;
    let refused = 0;
    session.createBidirectionalStream = async () => {
      if (refused++ < 2) throw new Error('Failed to create bidirectional stream.');
      return create.call(session);
    };
    assert.equal((await connection.subscribe('state:a')).type, 'subscribed');
    connection.close();
    session.createBidirectionalStream = async () => { throw new Error('closed'); };
    await assert.rejects(connection.subscribe('state:b'), { code: 'closed' });
  });

  test('where the control stream cannot be opened another transport is to be found', async () => {
    for (const refuse of [() => Promise.reject(new Error('Failed to create bidirectional stream.')), () => new Promise(() => {})]) {
      const { made, WebTransport } = fakeWebTransport(answers);
      const opening = open('webtransport', { base: 'http://h', fetch: connect, attach: true, WebTransport: class extends WebTransport {
        createBidirectionalStream() {
          return refuse();
        }
      } });
      await assert.rejects(opening, { code: 'unreachable' });
      await made[0].closed;
    }
  });

  test('bytes that are no frames close the connection', async () => {
    const { session, connection } = await opened();
    session.streams[0].controller.enqueue(new Uint8Array([1, 0x7f]));
    assert.equal((await connection.closed).code, 4901);
  });

  test('where there is no WebTransport it says so', async () => {
    await assert.rejects(open('webtransport', { base: 'http://h', fetch: connect }), { code: 'unsupported' });
  });
});

describe('WebSocket', () => {
  function fakeWebSocket() {
    const made = [];
    class FakeWebSocket {
      got = [];
      constructor(url, protocols) {
        Object.assign(this, { url, protocols });
        made.push(this);
        queueMicrotask(() => this.onopen());
      }
      send(data) {
        const message = decodeClient(data);
        this.got.push(message);
        answers(message, this);
      }
      say(...messages) {
        for (const { alias, ...json } of messages) {
          const data = encodeServer({ ...json, alias }).buffer;
          queueMicrotask(() => this.onmessage({ data }));
        }
      }
      close(code, reason) {
        queueMicrotask(() => this.onclose({ code, reason }));
      }
    }
    return { made, WebSocket: FakeWebSocket };
  }

  test('subscribes, publishes and closes', async () => {
    const { made, WebSocket } = fakeWebSocket();
    const messages = [];
    const connection = await open('websocket', {
      base: 'http://h:1/', WebSocket, channels: ['state:a'], onmessage: (message) => messages.push(message) });
    assert.equal(made[0].url, 'ws://h:1/ws?batch');
    assert.deepEqual(made[0].protocols, ['fulmar.v1.bin']);
    await turn();
    assert.deepEqual(messages.map(({ type }) => type), ['reset', 'publication', 'synced']);
    assert.deepEqual(messages[1], { type: 'publication', channel: 'state:a', epoch: 'e', offset: 2, time: 1, key: 'k', removed: false, data: 'two' });
    made[0].say(state('k', 3, new Uint8Array([1])));
    await turn();
    assert.deepEqual(messages[3].data, new Uint8Array([1]));
    assert.equal(connection.cursor, at(3));
    assert.equal((await connection.publish('event:x', { data: { a: 1 } })).offset, 7);
    assert.deepEqual(made[0].got.at(-1).data, { a: 1 });
    assert.equal((await connection.attach('the-id.the-secret')).resumed, true);
    assert.deepEqual(made[0].got.at(-1), { type: 'attach', ref: 19, id: 'the-id', secret: 'the-id.the-secret' });
    connection.close(4321, 'done');
    assert.deepEqual(await connection.closed, { code: 4321, reason: 'done' });
    await assert.rejects(connection.publish('event:x', { data: 1 }), { code: 'closed' });
  });

  test('takes several frames in one message', async () => {
    const { made, WebSocket } = fakeWebSocket();
    const messages = [];
    await open('websocket', { base: 'http://h:1/', WebSocket, channels: ['state:a'], onmessage: (message) => messages.push(message) });
    await turn();
    const frames = [3, 4, 5].map((offset) => prefixed(encodeServer(state('k', offset, offset))));
    made[0].onmessage({ data: Uint8Array.from([0x0e, ...frames.flatMap((frame) => [...frame])]).buffer });
    assert.deepEqual(messages.slice(3).map(({ offset, data }) => [offset, data]), [[3, 3], [4, 4], [5, 5]]);
  });

  test('is told when to come back', async () => {
    const { made, WebSocket } = fakeWebSocket();
    const connection = await open('websocket', { base: 'http://h:1/', WebSocket });
    made[0].say({ type: 'close', code: 4000, reason: 'going_away', retry_ms: 700 });
    await turn();
    made[0].close(4000, 'going_away');
    assert.deepEqual(await connection.closed, { code: 4000, reason: 'going_away', retry: 700 });
  });
});
