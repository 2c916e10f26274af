/** WebTransport: subscriptions that go with the CONNECT, and the stream that the server opens for them. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { buildCursor } from '../../client/js/cursor.js';
import { createSplitter, prefixed } from '../../client/js/framing.js';
import { openWebTransport } from '../../client/js/transports/webtransport.js';
import { clock, settled } from './memory.mjs';
import { decodeClient, encodeServer } from './peer.mjs';

/** One direction and its other end: what the client sends is taken apart, what the server says is put together. */
class Stream {
  said = [];
  ended = false;
  #splitter = createSplitter();

  constructor() {
    this.readable = new ReadableStream({ start: (controller) => { this.controller = controller; } });
    this.writable = new WritableStream({
      write: (chunk) => { this.said.push(...this.#splitter.push(chunk).map(decodeClient)); },
      close: () => { this.ended = true; },
    });
  }

  answer(...messages) {
    for (const message of messages) this.controller.enqueue(prefixed(encodeServer(message)));
  }
}

/** A session that opens, and what is on the server's side of it. */
function server({ opens = true } = {}) {
  const it = { urls: [], streams: [], given: null, closed: 0, heard: [] };
  it.WebTransport = class {
    ready = Promise.resolve();
    closed = new Promise(() => {});
    datagrams = { readable: new ReadableStream(), writable: new WritableStream() };
    incomingBidirectionalStreams = new ReadableStream({
      start: (controller) => {
        if (opens === 'ends') controller.error(new Error('the session has ended'));
        else if (opens) controller.enqueue(it.given = new Stream());
      },
    });
    constructor(url) {
      it.urls.push(url);
    }
    async createBidirectionalStream() {
      it.streams.push(new Stream());
      return it.streams.at(-1);
    }
    close() {
      it.closed++;
    }
  };
  const fetch = async () => Response.json({ webtransport: { url: 'https://h:1/wt' } });
  it.open = async (wanted, { dial = openWebTransport, ...more } = {}) => {
    const connection = await dial({ base: 'http://asked', fetch, WebTransport: it.WebTransport, attach: true, wanted: () => wanted, ...more });
    connection.onmessage = (message) => it.heard.push(`${message.channel} ${message.type} ${message.data ?? ''}`);
    return connection;
  };
  it.asked = () => {
    const text = new URL(it.urls.at(-1)).searchParams.get('subscribe');
    return text === null ? null : createSplitter().push(Buffer.from(text, 'base64url')).map(decodeClient);
  };
  return it;
}

const subscribed = (ref, channel, alias = ref) => ({ type: 'subscribed', ref, alias, channel, epoch: 'e', offset: 0 });
const publication = (alias, offset, data) => ({ type: 'publication', alias, offset, time: 1, key: '', removed: false, data });
const after = (channel, offset) => buildCursor([{ channel, epoch: 'e', offset }]);

describe('what goes with the CONNECT', () => {
  test('is answered on the stream of the server, and no other is opened for it', async () => {
    const at = server();
    const from = { after: after('event:a', 7) };
    const connection = await at.open([{ channel: 'event:a', ...from }, { channel: 'event:b' }]);
    assert.match(at.urls[0], /^https:\/\/h:1\/wt\?attach&subscribe=[\w-]+$/);
    assert.deepEqual(at.asked().map(({ channel, ref, after }) => [channel, ref, after]), [['event:a', 1, from.after], ['event:b', 2, undefined]]);
    const first = [connection.subscribe('event:a', from), connection.subscribe('event:b')];
    at.given.answer(subscribed(1, 'event:a'), subscribed(2, 'event:b'), publication(1, 8, 'x'), publication(2, 1, 'y'));
    assert.deepEqual((await Promise.all(first)).map(({ channel }) => channel), ['event:a', 'event:b']);
    await settled();
    assert.deepEqual(at.heard, ['event:a publication x', 'event:b publication y']);
    assert.deepEqual([at.streams.length, at.given.said], [1, []], 'the control stream');
    const later = connection.subscribe('event:c');
    await settled();
    assert.deepEqual(at.streams[1].said.map(({ type, ref }) => [type, ref]), [['subscribe', 17]]);
    at.streams[1].answer(subscribed(17, 'event:c'));
    await later;
    for (const [n, channel] of ['event:a', 'event:b'].entries()) {
      const done = connection.unsubscribe(channel);
      await settled();
      assert.deepEqual(at.given.said[n], { type: 'unsubscribe', ref: 18 + n, channel });
      at.given.answer({ type: 'unsubscribed', ref: 18 + n, channel });
      await done;
    }
    await settled();
    assert.equal(at.given.ended, false, 'it is there for them as long as the session');
  });

  test('is read before the control stream is opened, which is the first all the same', async () => {
    const at = server();
    const connection = await at.open([{ channel: 'event:a' }]);
    at.given.answer(subscribed(1, 'event:a'), publication(1, 8, 'x'));
    const before = new Promise((resolve) => { connection.onmessage = () => resolve(at.streams.length); });
    connection.attach('secret', { fresh: true }).catch(() => {});
    await Promise.all([connection.subscribe('event:a'), before]);
    assert.equal(await before, 0);
    await settled();
    assert.deepEqual(at.streams.map(({ said }) => said.map(({ type }) => type)), [['attach']]);
  });

  test('has no other stream opened before the control stream', async () => {
    const at = server();
    const connection = await at.open([{ channel: 'event:a' }]);
    connection.attach('secret', { fresh: true }).catch(() => {});
    connection.subscribe('event:a').catch(() => {});
    connection.subscribe('event:b').catch(() => {});
    await settled();
    assert.deepEqual(at.streams.map(({ said }) => said.map(({ type }) => type)), [['attach'], ['subscribe']]);
  });

  test('has no other stream opened before the control stream where that is refused for the moment', async () => {
    let refused = 0;
    const at = server();
    const connection = await at.open([{ channel: 'event:a' }], { WebTransport: class extends at.WebTransport {
      async createBidirectionalStream() {
        if (!refused++) throw new Error('Failed to create bidirectional stream.');
        return super.createBidirectionalStream();
      }
    } });
    connection.attach('secret', { fresh: true }).catch(() => {});
    connection.subscribe('event:b').catch(() => {});
    while (at.streams.length < 2) await settled();
    await settled();
    assert.deepEqual(at.streams.map(({ said }) => said.map(({ type }) => type)), [['attach'], ['subscribe']]);
  });

  test('is waited for from the beginning, and not only once the session is ready', async () => {
    const at = server();
    const opening = at.open([{ channel: 'event:a' }], { WebTransport: class extends at.WebTransport {
      ready = new Promise((resolve) => { at.begin = resolve; });
      constructor(url) {
        super(url);
        at.session = this;
      }
    } });
    await settled();
    assert.ok(at.session.incomingBidirectionalStreams.locked);
    at.begin();
    await opening;
  });

  test('is unsubscribed from where nobody wants it any more, and whoever does later asks behind that', async () => {
    const at = server();
    const connection = await at.open([{ channel: 'event:a' }, { channel: 'event:b' }]);
    const kept = connection.subscribe('event:b');
    at.given.answer(subscribed(1, 'event:a'), subscribed(2, 'event:b'));
    await kept;
    await settled();
    assert.equal(connection.has('event:a'), false);
    assert.deepEqual(at.given.said, [{ type: 'unsubscribe', ref: 17, channel: 'event:a' }]);
    const again = connection.subscribe('event:a');
    await settled();
    assert.deepEqual([at.streams.length, at.given.said[1]], [1, { type: 'subscribe', ref: 18, channel: 'event:a' }], 'on the same stream, which is in order');
    at.given.answer(publication(1, 3, 'unwanted'), { type: 'unsubscribed', ref: 17, channel: 'event:a' }, subscribed(18, 'event:a', 9), publication(9, 4, 'wanted'));
    assert.equal((await again).channel, 'event:a');
    await settled();
    assert.deepEqual(at.heard, ['event:a publication wanted']);
  });

  test('is asked for anew where it goes on from elsewhere now, and what comes of the first says nothing', async () => {
    const at = server();
    const connection = await at.open([{ channel: 'event:a' }, { channel: 'event:b', after: after('event:b', 7) }]);
    const joined = [connection.subscribe('event:a', { after: after('event:a', 9) }), connection.subscribe('event:b', { after: after('event:b', 3) })];
    await settled();
    const sent = at.given.said.map(({ type, ref, channel, after }) => [type, ref, channel, after]).sort();
    assert.deepEqual(sent, [
      ['subscribe', 19, 'event:a', after('event:a', 9)], ['subscribe', 20, 'event:b', after('event:b', 3)],
      ['unsubscribe', 17, 'event:a', undefined], ['unsubscribe', 18, 'event:b', undefined]]);
    at.given.answer(subscribed(1, 'event:a'), subscribed(2, 'event:b'), publication(1, 11, 'too soon'), publication(2, 8, 'too far'));
    const gap = { type: 'gap', alias: 1, channel: 'event:a', epoch: 'e', offset: 12 };
    at.given.answer(gap, { type: 'unsubscribed', ref: 17, channel: 'event:a' }, { type: 'unsubscribed', ref: 18, channel: 'event:b' });
    at.given.answer(subscribed(19, 'event:a', 5), publication(5, 10, 'ten'), subscribed(20, 'event:b', 6), publication(6, 4, 'four'));
    await Promise.all(joined);
    await settled();
    assert.deepEqual(at.heard, ['event:a publication ten', 'event:b publication four']);
  });

  test('is not what a server could not read, which is refused on a stream of its own', async () => {
    const at = server();
    await at.open([{ channel: 'event:not ok' }, { channel: 'event:b' }]);
    assert.deepEqual(at.asked().map(({ channel }) => channel), ['event:b']);
  });

  test('is asked for again where the session has ended meanwhile', async () => {
    const at = server({ opens: 'ends' });
    await assert.rejects(at.open([{ channel: 'event:a' }]), { code: 'unreachable' });
    await assert.rejects(at.open([{ channel: 'event:a' }]), { code: 'unreachable' });
    assert.deepEqual(at.asked().map(({ channel }) => channel), ['event:a']);
  });

  test('may be refused, one by one', async () => {
    const at = server();
    const connection = await at.open([{ channel: 'event:a' }, { channel: 'event:b' }]);
    const both = [connection.subscribe('event:a'), connection.subscribe('event:b')];
    at.given.answer({ type: 'error', ref: 1, error: { code: 'forbidden', message: 'No.' } }, subscribed(2, 'event:b'));
    await assert.rejects(both[0], { code: 'forbidden' });
    await both[1];
    assert.deepEqual([connection.has('event:a'), connection.has('event:b'), at.given.ended], [false, true, false]);
  });

  test('is as much as the server takes', async () => {
    const at = server();
    await at.open(Array.from({ length: 20 }, (_, n) => ({ channel: `event:${n}` })));
    assert.equal(at.asked().length, 16);
    await at.open(Array.from({ length: 16 }, (_, n) => ({ channel: `event:${'x'.repeat(240)}${n}` })));
    assert.equal(at.asked().length, 12);
    assert.ok(new URL(at.urls.at(-1)).searchParams.get('subscribe').length <= 4096);
    await at.open([]);
    assert.equal(at.urls.at(-1), 'https://h:1/wt?attach');
  });

  test('is what is wanted in the turn in which the client was made', async () => {
    const at = server();
    const wanted = [];
    const opening = at.open(wanted);
    wanted.push({ channel: 'event:a' });
    await opening;
    assert.deepEqual(at.asked().map(({ channel }) => channel), ['event:a']);
  });

  test('is lost with the control stream, where that does not open, and the next dial finds out before', async (t) => {
    const time = clock(t);
    const at = server();
    // What it finds out holds for the page.
    const { openWebTransport: dial } = await import('../../client/js/transports/webtransport.js?stuck');
    const stuck = { dial, WebTransport: class extends at.WebTransport {
      createBidirectionalStream() {
        return new Promise(() => {});
      }
    } };
    const connection = await at.open([{ channel: 'event:a' }], stuck);
    await time.pass(3_000);
    assert.equal((await connection.closed).code, 1006);
    const again = assert.rejects(at.open([{ channel: 'event:a' }], stuck), { code: 'unreachable' });
    await settled();
    await time.pass(3_000);
    await again;
    assert.equal(at.asked(), null);
    assert.equal(at.closed, 2);
  });

  test('is not asked for again where no stream of the server comes', async (t) => {
    const time = clock(t);
    const at = server({ opens: false });
    const opening = assert.rejects(at.open([{ channel: 'event:a' }]), { code: 'unreachable' });
    await settled();
    await time.pass(3_000);
    await opening;
    assert.equal(at.closed, 1);
    await at.open([{ channel: 'event:a' }]);
    assert.equal(at.asked(), null);
  });
});
