/** `connect()` in node, against the server itself, over each transport: what units with a server in memory cannot show. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request as ask } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { connect } from '../../client/js/fulmar.js';
import { HIGH_WATER } from '../../client/js/limits.js';
import { Server, channelIn } from './server.mjs';
import { QuietWebSocket } from './websocket.mjs';

const DEADLINE = 20_000;

/** @template T @param {Promise<T>} promise @param {string} what @returns {Promise<T>} */
async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what} within ${DEADLINE} ms`)), DEADLINE)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Once `event` of the target has told something that holds. */
function told(target, event, holds = () => true) {
  return within(new Promise((resolve) => {
    target.addEventListener(event, function listener({ detail }) {
      if (!holds(detail)) return;
      target.removeEventListener(event, listener);
      resolve(detail);
    });
  }), `no ${event}`);
}

/** What is handed over of a channel, and a promise of so much of it. */
function collect(client, channel, options = {}) {
  const got = [], gaps = [];
  let check = () => {};
  const subscription = client.subscribe(channel, { ...options,
    onGap: ({ offset }) => gaps.push(offset),
    onPublication({ data }) {
      got.push(data);
      check();
    } });
  const count = (n) => within(new Promise((resolve) => {
    check = () => got.length >= n && resolve(got);
    check();
  }), `${n} of ${channel}`).catch((error) => assert.fail(`${error.message}: ${got.length}, ends on ${JSON.stringify(got.slice(-3))}`));
  return { got, gaps, subscription, count };
}

const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);

let server;
before(async () => {
  server = await Server.start();
});
after(() => server.stop());

/** A path to the server on which things can be broken: answers can be refused, connections cut. */
class Path {
  /** @type {(request: import('node:http').IncomingMessage) => boolean} */
  refuses = () => false;
  sockets = new Set();

  static async start(base) {
    const path = new Path();
    const { port } = new URL(base);
    const forward = (request) => ask({
      port, host: '127.0.0.1', method: request.method, path: request.url,
      headers: { ...request.headers, host: `127.0.0.1:${port}` } });
    path.http = createServer((request, response) => {
      if (path.refuses(request)) return void request.socket.destroy();
      const upstream = forward(request);
      upstream.on('response', (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      upstream.on('error', () => request.socket.destroy());
      response.on('close', () => upstream.destroy());
      request.pipe(upstream);
    });
    path.http.on('upgrade', (request, socket, head) => {
      if (path.refuses(request)) return void socket.destroy();
      const upstream = forward(request);
      upstream.on('upgrade', (answer, far, first) => {
        const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${value}`);
        socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('\r\n')}\r\n\r\n`);
        socket.write(first);
        far.write(head);
        far.pipe(socket).pipe(far);
        for (const end of [far, socket]) end.on('error', () => {}).on('close', () => { far.destroy(); socket.destroy(); });
      });
      upstream.on('error', () => socket.destroy());
      upstream.end();
    });
    path.http.on('connection', (socket) => {
      path.sockets.add(socket);
      socket.on('close', () => path.sockets.delete(socket));
    });
    path.http.listen(0, '127.0.0.1');
    await once(path.http, 'listening');
    path.base = `http://127.0.0.1:${path.http.address().port}`;
    return path;
  }

  cut() {
    for (const socket of this.sockets) socket.destroy();
  }

  async stop() {
    this.http.close();
    this.cut();
  }
}

for (const transport of ['websocket', 'sse', 'poll']) {
  describe(`connect() over ${transport}`, () => {
    const connected = async (context, options = {}) => {
      const path = await Path.start(server.base);
      const client = connect(path.base, { transports: [transport], WebSocket: QuietWebSocket, ...options });
      context.after(async () => {
        client.close();
        await path.stop();
      });
      return { path, client };
    };

    test('who subscribes and then publishes hears it, before there is a connection', async (context) => {
      const { client } = await connected(context);
      const channel = channelIn('event');
      const { got, count } = collect(client, channel);
      await within(client.publish(channel, 'heard'), 'published');
      await within(count(1), 'heard');
      assert.deepEqual(got, ['heard']);
    });

    test('goes on where it was when the connection is cut', async (context) => {
      const { path, client } = await connected(context);
      const channel = channelIn('event'), states = channelIn('state');
      const { got, gaps, subscription, count } = collect(client, channel);
      const state = client.state(states);
      await within(Promise.all([subscription.ready, state.ready]), 'ready');
      const publish = async (from, to) => {
        for (const n of range(from, to)) await server.publish(channel, { data: n });
        await server.publish(states, { key: 'n', data: to });
      };
      await publish(0, 20);
      await count(20);
      for (const round of [1, 2]) {
        const lost = told(client, 'transport', (now) => now === null);
        path.cut();
        await lost;
        await publish(round * 20, round * 20 + 20);
        await count(round * 20 + 20);
      }
      assert.deepEqual(got, range(0, 60));
      assert.deepEqual(gaps, []);
      if (state.get('n') !== 60) {
        await within(new Promise((resolve) => state.onChange(({ value }) => value === 60 && resolve())), 'the newest state');
      }
      const { reconnects, bytes, publications, status } = client.stats();
      assert.ok(reconnects >= 2);
      assert.ok(bytes.received > 1000 && publications >= 62, JSON.stringify(client.stats()));
      assert.equal(status, 'open');
    });

    test('publishes once, in order, over cut connections and lost answers', async (context) => {
      const { path, client } = await connected(context);
      const channel = channelIn('event');
      const reader = connect(server.base, { transports: ['websocket'], WebSocket: QuietWebSocket });
      context.after(() => reader.close());
      const { got, subscription, count } = collect(reader, channel);
      const own = client.subscribe(channelIn('event'), { onPublication() {} });
      await within(Promise.all([subscription.ready, own.ready]), 'ready');
      const answers = range(0, 40).map((n) => client.publish(channel, n));
      await answers[3];
      path.cut();
      answers.push(...range(40, 60).map((n) => client.publish(channel, n)));
      const offsets = (await within(Promise.all(answers), 'answers')).map(({ offset }) => offset);
      await count(60);
      assert.deepEqual(got, range(0, 60));
      assert.deepEqual(offsets, range(1, 61));
      assert.equal(client.stats().pending, 0);
      assert.ok(client.stats().bytes.sent > 0);
    });

    test('an iterator that is slow pauses the reading, and loses nothing', async (context) => {
      const { client } = await connected(context);
      const channel = channelIn('event');
      const subscription = client.subscribe(channel);
      await within(subscription.ready, 'ready');
      const publisher = await server.publisher();
      context.after(() => publisher.close());
      const total = HIGH_WATER * 3;
      const half = total / 2;
      const publish = (from, to) => Promise.all(range(from, to).map((data) => publisher.publish(channel, { data })));
      await publish(0, half);
      const taken = [];
      const rest = publish(half, total);
      await within((async () => {
        for await (const { data } of subscription) {
          taken.push(data);
          // The page is busy with each of them for a moment.
          if (taken.length % 16 === 0) await new Promise(setImmediate);
          if (taken.length === total) break;
        }
      })(), `${total} publications`).catch((error) => assert.fail(`${error.message}: ${taken.length}`));
      await rest;
      assert.deepEqual(taken, range(0, total));
      assert.equal(client.stats().gaps, 0);
    });

    test('a channel that is refused leaves the others alone', async (context) => {
      const { client } = await connected(context);
      const channel = channelIn('event');
      const errors = [];
      client.addEventListener('error', ({ detail }) => errors.push(detail.code));
      const first = collect(client, channel);
      const refused = client.subscribe('é');
      const second = collect(client, channelIn('event'));
      await assert.rejects(within(refused.ready, 'a refusal'), { code: 'bad_channel' });
      await within(Promise.all([first.subscription.ready, second.subscription.ready]), 'ready');
      await server.publish(channel, { data: 'one' });
      await first.count(1);
      await assert.rejects(within(client.subscribe('nö').ready, 'a refusal'), { code: 'bad_channel' });
      await server.publish(channel, { data: 'two' });
      await first.count(2);
      assert.deepEqual(errors, ['bad_channel', 'bad_channel']);
      await assert.rejects(refused[Symbol.asyncIterator]().next(), { code: 'bad_channel' });
    });

    test('a publication that is refused says why', async (context) => {
      const { client } = await connected(context);
      await assert.rejects(within(client.publish(channelIn('event'), 'x'.repeat(70_000)), 'a refusal'), { code: 'payload_too_large' });
      await assert.rejects(within(client.publish(channelIn('event'), 'x'.repeat(400_000)), 'a refusal'), { code: /^(payload|message)_too_large$/ });
      assert.equal(client.status, 'open');
      assert.equal(client.reconnects, 0);
      assert.equal((await within(client.publish(channelIn('event'), 'x'), 'an answer')).offset, 1);
    });
  });
}

describe('connect()', () => {
  test('takes the best that works, and says why not the others', async (context) => {
    const path = await Path.start(server.base);
    context.after(() => path.stop());
    path.refuses = ({ url }) => url.startsWith('/ws');
    const client = connect(path.base, { WebSocket: QuietWebSocket });
    context.after(() => client.close());
    await within(client.ready, 'a connection');
    assert.equal(client.transport, 'sse');
    const reasons = Object.fromEntries(client.stats().attempts.map(({ transport, outcome, reason }) => [transport, `${outcome} ${reason}`]));
    assert.match(reasons.webtransport, /^failed There is no WebTransport here/);
    assert.match(reasons.websocket, /^failed The WebSocket could not be opened/);
    const { count, subscription, got } = collect(client, channelIn('event'));
    await within(subscription.ready, 'ready');
    path.refuses = () => false;
    const moved = told(client, 'transport', (now) => now === 'websocket');
    const publisher = await server.publisher();
    context.after(() => publisher.close());
    let n = 0;
    const publishing = setInterval(() => publisher.publish(subscription.channel, { data: n++ }), 20);
    await moved.finally(() => clearInterval(publishing));
    await publisher.publish(subscription.channel, { data: 'last' });
    await count(n + 1);
    assert.deepEqual(got, [...range(0, n), 'last']);
    assert.equal(client.stats().moves, 1);
  });

  test('an event stream that is held back is left for polling', async (context) => {
    const path = await Path.start(server.base);
    context.after(() => path.stop());
    const client = connect(path.base, { transports: ['sse', 'poll'], fetch: async (url, init) => {
      if (!String(url).includes('/sse')) return fetch(url, init);
      return new Response(new ReadableStream(), { headers: { 'content-type': 'text/event-stream' } });
    } });
    context.after(() => client.close());
    const channel = channelIn('event');
    const { count, subscription } = collect(client, channel);
    await within(subscription.ready, 'ready');
    assert.equal(client.transport, 'poll', 'what is silent has taken nothing');
    await server.publish(channel, { data: 'one' });
    await count(1);
    assert.match(client.stats().attempts.find(({ transport }) => transport === 'sse').reason, /holding it back/);
  });

  test('a server that does not let this page in is not asked again', async () => {
    const there = createServer((request, response) => {
      response.writeHead(421, { 'content-type': 'application/json' }).end('{"error":{"code":"misdirected","message":"Not this host."}}');
    }).listen(0, '127.0.0.1');
    await once(there, 'listening');
    const client = connect(`http://127.0.0.1:${there.address().port}`, { WebSocket: QuietWebSocket });
    const close = await within(client.closed, 'a close');
    assert.equal(close.code, 4902);
    assert.match(close.reason, /Not this host/);
    await assert.rejects(client.ready, { code: 'misdirected' });
    there.close();
  });

  test('after a restart it is back by itself, and says that something may be missing', async (context) => {
    const first = await Server.start();
    const { port } = new URL(first.base);
    const client = connect(first.base, { transports: ['websocket'], WebSocket: QuietWebSocket });
    context.after(() => client.close());
    const { gaps, count, subscription } = collect(client, 'event:a');
    const state = client.state('state:a');
    await within(Promise.all([subscription.ready, state.ready]), 'ready');
    await client.publish('event:a', 'before');
    await client.publish('state:a', 'before', { key: 'k' });
    await count(1);
    await first.stop();
    assert.equal(state.get('k'), 'before', 'shown on');
    const second = await Server.start([], { http: `127.0.0.1:${port}` });
    context.after(() => second.stop());
    await within(client.publish('state:a', 'after', { key: 'l' }), 'an answer');
    await within(client.publish('event:a', 'after'), 'an answer');
    await count(2);
    assert.deepEqual([gaps, [...state]], [[0], [['l', 'after']]]);
    assert.equal(client.stats().gaps, 1);
  });
});
