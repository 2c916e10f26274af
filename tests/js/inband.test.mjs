import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { buildCursor, open } from '../../client/js/fulmar.js';
import { FrameSplitter, prefixed } from '../../client/js/framing.js';
import { fromJson, toJson } from '../../client/js/json.js';
import { decodeClient, encodeServer } from '../../client/js/wire.js';

const state = (key, offset, data) => (
  { type: 'publication', channel: 'state:a', epoch: 'e', alias: 1, offset, time: 1, key, removed: false, data });
const control = (type, offset) => ({ type, channel: 'state:a', epoch: 'e', alias: 1, offset });
const at = (offset) => buildCursor([{ channel: 'state:a', epoch: 'e', offset }]);
const turn = () => new Promise((resolve) => setTimeout(resolve, 5));

/** A stream as the page sees it, and what the server does with it. */
class FakeStream {
  got = [];
  #splitter = new FrameSplitter();
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
      this.datagrams = { readable, incomingHighWaterMark: 1 };
      made.push(this);
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
  if (message.type === 'unsubscribe') stream.say({ type: 'unsubscribed', ref: message.ref, channel: message.channel });
  if (message.type === 'publish') {
    stream.say({ type: 'published', ref: message.ref, channel: message.channel, epoch: 'e', offset: 7 });
  }
};

describe('WebTransport', () => {
  async function opened() {
    const { made, WebTransport } = fakeWebTransport(answers);
    const messages = [];
    const connection = await open('webtransport', {
      base: 'http://h', fetch: connect, WebTransport, onmessage: (message) => messages.push(message) });
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

  test('datagrams that come before their alias are kept for it', async () => {
    const { session, connection, messages } = await opened();
    for (let i = 0; i < 70; i++) session.send(state(`early${i}`, 100 + i, i));
    await turn();
    assert.equal(messages.length, 0);
    await connection.subscribe('state:a');
    await turn();
    const early = messages.filter(({ key }) => key?.startsWith('early'));
    assert.equal(early.length, 64);
    assert.equal(early.at(-1).key, 'early69');
    assert.equal(connection.received.datagrams, 70);
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

  test('a ping is answered, and a close in-band tells what the session does not', async () => {
    const { session, connection } = await opened();
    session.streams[0].say({ type: 'ping', ref: 3 }, { type: 'close', code: 4000, reason: 'stopping' });
    await turn();
    assert.deepEqual(session.streams[0].got.at(-1), { type: 'pong', ref: 3 });
    const waiting = connection.subscribe('event:never');
    session.end({ closeCode: 0, reason: '' });
    assert.deepEqual(await connection.closed, { code: 4000, reason: 'stopping' });
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
  function fakeWebSocket(encoding) {
    const made = [];
    class FakeWebSocket {
      got = [];
      constructor(url, protocols) {
        Object.assign(this, { url, protocols });
        made.push(this);
        queueMicrotask(() => this.onopen());
      }
      send(data) {
        const message = encoding === 'bin' ? decodeClient(data) : fromJson(JSON.parse(data));
        this.got.push(message);
        answers(message, this);
      }
      say(...messages) {
        for (const { alias, ...json } of messages) {
          const data = encoding === 'bin' ? encodeServer({ ...json, alias }).buffer : JSON.stringify(toJson(json));
          queueMicrotask(() => this.onmessage({ data }));
        }
      }
      close(code, reason) {
        queueMicrotask(() => this.onclose({ code, reason }));
      }
    }
    return { made, WebSocket: FakeWebSocket };
  }

  for (const encoding of ['json', 'bin']) {
    test(`subscribes, publishes and closes in ${encoding}`, async () => {
      const { made, WebSocket } = fakeWebSocket(encoding);
      const messages = [];
      const connection = await open('websocket', {
        base: 'http://h:1/', encoding, WebSocket, channels: ['state:a'], onmessage: (message) => messages.push(message) });
      assert.equal(made[0].url, 'ws://h:1/ws');
      assert.deepEqual(made[0].protocols, [`fulmar.v1.${encoding}`]);
      await turn();
      assert.deepEqual(messages.map(({ type }) => type), ['reset', 'publication', 'synced']);
      assert.deepEqual(messages[1], { type: 'publication', channel: 'state:a', epoch: 'e', offset: 2, time: 1, key: 'k', removed: false, data: 'two' });
      made[0].say(state('k', 3, new Uint8Array([1])));
      await turn();
      assert.deepEqual(messages[3].data, new Uint8Array([1]));
      assert.equal(connection.cursor, at(3));
      assert.equal((await connection.publish('event:x', { data: { a: 1 } })).offset, 7);
      assert.deepEqual(made[0].got.at(-1).data, { a: 1 });
      connection.close(4321, 'done');
      assert.deepEqual(await connection.closed, { code: 4321, reason: 'done' });
      await assert.rejects(connection.publish('event:x', { data: 1 }), { code: 'closed' });
    });
  }
});
