import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { advice, buildCursor, open } from '../../client/js/fulmar.js';
import { createSseParser } from '../../client/js/transports/sse.js';

describe('SseParser', () => {
  const source = ': hello\nretry: 250\nid: c0\n\nid: c1\ndata: one: 1\ndata:two\n\nevent: gap\r\nid: c2\r\ndata: {}\r\n\r\n'
    + ': quiet\n\nevent: nothing\n\nid\ndata:  x\n\n';
  const expected = [
    { '': 'hello', retry: '250', id: 'c0' },
    { id: 'c1', data: 'one: 1\ntwo' },
    { event: 'gap', id: 'c2', data: '{}' },
    { '': 'quiet' },
    { event: 'nothing' },
    { id: '', data: ' x' },
  ];
  for (const size of [1, 3, 1000]) {
    test(`in pieces of ${size}`, () => {
      const parse = createSseParser();
      const events = [];
      for (let at = 0; at < source.length; at += size) events.push(...parse(source.slice(at, at + size)));
      assert.deepEqual(events, expected);
    });
  }

  test('an event without end is refused', () => {
    assert.throws(() => createSseParser()('x'.repeat((1 << 20) + 1)), { code: 'malformed' });
  });
});

const cursorAt = (offset) => buildCursor([{ channel: 'event:a', epoch: 'e', offset }]);
const publication = (offset) => (
  { channel: 'event:a', epoch: 'e', offset, time: 1, data: `n${offset}` });

describe('SSE and poll', () => {
  /** @type {import('node:http').Server} */
  let server;
  let base;
  /** @type {(request: import('node:http').IncomingMessage, response: import('node:http').ServerResponse) => void} */
  let handle;
  const seen = [];

  before(async () => {
    server = createServer((request, response) => {
      seen.push(`${request.method} ${decodeURIComponent(request.url)}`);
      handle(request, response);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    base = `http://127.0.0.1:${server.address().port}`;
  });
  after(() => {
    server.closeAllConnections();
    server.close();
  });

  const collect = (connection, count) => new Promise((resolve) => {
    const messages = [];
    connection.onmessage = (message) => messages.push(message) === count && resolve(messages);
  });

  test('SSE joins channels on one request, follows the cursor and tells the close', async () => {
    seen.length = 0;
    handle = (request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`id: ${cursorAt(3)}\nevent: gap\ndata: ${JSON.stringify({ channel: 'event:a', epoch: 'e', offset: 3 })}\n\n`);
      response.write(`id: ${cursorAt(4)}\ndata: ${JSON.stringify(publication(4))}\n\n`);
      response.end(`event: close\nid: ${cursorAt(4)}\ndata: {"code":4000,"reason":"stopping"}\nretry: 100\n\n`);
    };
    const connection = await open('sse', { base });
    const messages = collect(connection, 2);
    const cursors = [];
    const { onmessage } = connection;
    connection.onmessage = (message) => {
      cursors.push(connection.cursor);
      onmessage(message);
    };
    await Promise.all([connection.subscribe('event:a', { after: cursorAt(1) }), connection.subscribe('event:b')]);
    assert.deepEqual((await messages).map(({ type, offset, data }) => [type, offset, data]),
      [['gap', 3, undefined], ['publication', 4, 'n4']]);
    assert.deepEqual(cursors, [cursorAt(3), cursorAt(4)], 'behind what is handed over');
    assert.deepEqual(await connection.closed, { code: 4000, reason: 'stopping', retry: 100 });
    assert.equal(connection.cursor, cursorAt(4));
    assert.deepEqual(seen, [`GET /sse?channel=event:a&channel=event:b&after=${cursorAt(1)}`]);
  });

  test('the round trip is that of requests which are answered at once', async () => {
    let release;
    handle = (request, response) => {
      const { pathname, searchParams } = new URL(request.url, base);
      const answer = () => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(
        request.method === 'POST' ? { secret: 's', epoch: 'e', offset: 1 }
          : { cursor: cursorAt(1), publications: [], control: [], more: false },
      ));
      if (pathname === '/sse') response.writeHead(200, { 'content-type': 'text/event-stream' }).write(`id: ${cursorAt(1)}\n\n`);
      else if (searchParams.has('wait') && !release) release = answer;
      else if (!searchParams.has('wait')) answer();
    };
    const stream = await open('sse', { base });
    assert.equal(stream.rtt, null);
    await stream.subscribe('event:a');
    const { last, least, smoothed } = stream.rtt;
    assert.ok(last > 0 && last === least && last === smoothed, `${last} ${least} ${smoothed}`);
    stream.close();

    const polling = await open('poll', { base, channels: ['event:a'] });
    const first = polling.rtt;
    assert.ok(first.last > 0);
    const heard = new Promise((resolve) => (polling.onpart = resolve));
    while (!release) await once(server, 'request');
    release();
    await heard;
    assert.equal(polling.rtt, first, 'the server waited');
    await polling.publish('event:a', 'x');
    assert.notEqual(polling.rtt, first);
    polling.close();
  });

  test('SSE: a pause that is no number is none', async () => {
    handle = (request, response) => response.writeHead(200, { 'content-type': 'text/event-stream' }).end('retry: soon\n\n');
    const connection = await open('sse', { base, channels: ['event:a'] });
    assert.equal((await connection.closed).retry, undefined);
  });

  test('the session is made once, whatever is refused of it, and again where it could not be made', async () => {
    seen.length = 0;
    let fails = true;
    handle = ({ url }, response) => {
      if (url === '/session' && !fails) return void response.end('{"secret":"s"}');
      response.writeHead(fails ? 503 : 403).end('{"error":{"code":"forbidden","message":"no"}}');
    };
    const connection = await open('poll', { base });
    await assert.rejects(connection.publish('event:a', 1), { status: 503 });
    fails = false;
    for (const n of [2, 3]) await assert.rejects(connection.publish('event:a', n), { status: 403 });
    assert.deepEqual(seen, ['POST /session', 'POST /session', 'POST /send', 'POST /send']);
    connection.close();
  });

  test('SSE: 204 asks not to come back', async () => {
    handle = (request, response) => response.writeHead(204).end();
    const connection = await open('sse', { base, channels: ['event:a'] });
    assert.equal(advice((await connection.closed).code), 'stop');
  });

  test('an error of the server reaches the one who subscribes', async () => {
    handle = (request, response) => response.writeHead(400, { 'content-type': 'application/json' })
      .end('{"error":{"code":"bad_channel","message":"No."}}');
    for (const transport of ['sse', 'poll']) {
      const connection = await open(transport, { base });
      await assert.rejects(connection.subscribe('é'), { code: 'bad_channel', status: 400 });
      assert.ok(connection.open, 'the others go on');
      connection.close();
      await assert.rejects(open(transport, { base, channels: ['é'] }), { code: 'bad_channel' });
    }
  });

  test('poll first asks without waiting, then waits from its cursor, and delivers in order', async () => {
    seen.length = 0;
    let count = 0;
    handle = (request, response) => {
      count++;
      if (count === 4) return; // A long poll.
      const answer = [
        { cursor: cursorAt(1), publications: [], control: [], more: false },
        {
          cursor: cursorAt(3), publications: [publication(2), publication(3)], more: true,
          control: ['reset', 'synced'].map((type) => ({ type, channel: 'event:a', epoch: 'e', offset: 1 })),
        },
        { cursor: cursorAt(4), publications: [publication(4)], control: [], more: false },
      ][count - 1];
      response.end(JSON.stringify(answer));
    };
    const connection = await open('poll', { base, wait: 20 });
    const messages = collect(connection, 5);
    await connection.subscribe('event:a');
    assert.equal(connection.cursor, cursorAt(1));
    assert.deepEqual((await messages).map(({ type, offset }) => `${type} ${offset}`),
      ['reset 1', 'publication 2', 'publication 3', 'synced 1', 'publication 4']);
    connection.close(1000, 'enough');
    assert.deepEqual(await connection.closed, { code: 1000, reason: 'enough' });
    assert.deepEqual(seen.slice(0, 3), ['GET /poll?channel=event:a',
      `GET /poll?channel=event:a&after=${cursorAt(1)}&wait=20`, `GET /poll?channel=event:a&after=${cursorAt(3)}&wait=20`]);
    await assert.rejects(connection.subscribe('event:b'), { code: 'closed' });
  });

  test('the server\'s cursor goes for the channels that are read, and for those it names', async () => {
    const at = (...entries) => buildCursor(entries.map(([channel, offset]) => ({ channel, epoch: 'e', offset })));
    handle = (request, response) => {
      if (request.url.includes('wait=')) return;
      response.end(JSON.stringify({ cursor: at(['event:a', 1], ['event:c', 7]), publications: [], control: [], more: false }));
    };
    const connection = await open('poll', { base });
    await Promise.all([connection.subscribe('event:a'), connection.subscribe('event:b', { after: at(['event:b', 3]) })]);
    assert.equal(connection.cursor, at(['event:a', 1], ['event:b', 3]));
    await connection.unsubscribe('event:a');
    assert.equal(connection.cursor, at(['event:b', 3]));
    connection.close();
  });

  test('a channel that is left and taken again does not go on where it was', async () => {
    seen.length = 0;
    handle = (request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`id: ${cursorAt(3)}\n\n`);
    };
    const connection = await open('sse', { base, channels: ['event:a'] });
    connection.unsubscribe('event:a');
    await connection.subscribe('event:a');
    assert.equal(connection.cursor, cursorAt(3));
    assert.deepEqual(seen.filter((line) => line.includes('/sse')), ['GET /sse?channel=event:a', 'GET /sse?channel=event:a']);
    connection.close();
  });

  test('a channel that joins later has the request made anew', async () => {
    seen.length = 0;
    handle = (request, response) => {
      if (request.url.includes('wait=')) return;
      response.end(JSON.stringify({ cursor: cursorAt(1), publications: [], control: [], more: false }));
    };
    const connection = await open('poll', { base, channels: ['event:a'] });
    await connection.subscribe('event:b');
    await connection.unsubscribe('event:a');
    assert.deepEqual(seen.filter((line) => !line.includes('wait=')), ['GET /poll?channel=event:a',
      `GET /poll?channel=event:a&channel=event:b&after=${cursorAt(1)}`, 'GET /poll?channel=event:b']);
    connection.close();
  });

  test('a publication that came to nothing fails those behind it, one that is refused does not', async () => {
    const sent = [];
    handle = async (request, response) => {
      if (request.method === 'GET') return; // The last poll of a connection that has closed.
      let body = '';
      for await (const chunk of request) body += chunk;
      if (request.url === '/session') return response.end('{"id":"s","secret":"secret"}');
      const { data } = JSON.parse(body);
      sent.push(data);
      if (data === 'lost') return request.socket.destroy();
      if (data === 'refused') return response.writeHead(403).end('{"error":{"code":"forbidden","message":"No."}}');
      response.end(JSON.stringify({ type: 'published', channel: 'event:a', epoch: 'e', offset: sent.length }));
    };
    const connection = await open('sse', { base });
    const publish = (...all) => Promise.all(all.map((data) => connection.publish('event:a', { data }).catch(({ code }) => code)));
    const place = (offset) => ({ type: 'published', channel: 'event:a', epoch: 'e', offset });
    assert.deepEqual(await publish('one', 'lost', 'two', 'three'), [place(1), 'unreachable', 'unreachable', 'unreachable']);
    assert.deepEqual(sent, ['one', 'lost']);
    assert.deepEqual(await publish('two', 'refused', 'three'), [place(3), 'forbidden', place(5)]);
    connection.close();
  });

  test('publishing makes a session, and the same again when it is forgotten', async () => {
    seen.length = 0;
    let sessions = 0;
    const bodies = [];
    const asked = [];
    handle = async (request, response) => {
      if (request.method === 'GET') return; // The last poll of a connection that has closed.
      let body = '';
      for await (const chunk of request) body += chunk;
      if (request.url === '/session') {
        asked.push(request.headers.authorization);
        return response.end(JSON.stringify({ id: 's', secret: `secret${++sessions}` }));
      }
      bodies.push([request.headers.authorization, JSON.parse(body)]);
      const forgotten = sessions === 1 && bodies.length > 1;
      if (forgotten) response.writeHead(401).end('{"error":{"code":"unknown_session","message":"Gone."}}');
      else response.end(JSON.stringify({ type: 'published', channel: 'event:a', epoch: 'e', offset: bodies.length }));
    };
    const connection = await open('sse', { base });
    assert.equal((await connection.publish('event:a', { data: new Uint8Array([1, 2]), key: 'k' })).offset, 1);
    assert.equal((await connection.publish('event:a', { data: 'text' })).offset, 3);
    assert.deepEqual(bodies, [
      ['Bearer secret1', { type: 'publish', channel: 'event:a', key: 'k', b64: 'AQI=' }],
      ['Bearer secret1', { type: 'publish', channel: 'event:a', data: 'text' }],
      ['Bearer secret1', { type: 'publish', channel: 'event:a', data: 'text' }],
    ]);
    assert.deepEqual(asked, [undefined, 'Bearer secret1'], 'the secret makes its session again');
    connection.close();
  });
});
