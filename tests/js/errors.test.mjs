/** What goes wrong on the way over HTTP, and what the application is told of it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { FulmarError, connect, discover, open } from '../../client/js/fulmar.js';
import { CloseCode, advice, closeFor, isPassing } from '../../client/js/errors.js';
import { Heartbeat } from '../../client/js/heartbeat.js';

let server, base, handle;
before(async () => {
  server = createServer((request, response) => handle(request, response)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  base = `http://127.0.0.1:${server.address().port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});

const portal = (request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<title>Log in</title>');
const gone = (request) => request.socket.destroy();
const answering = (status, error, headers = {}) => (request, response) => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify({ error }));
};
const typed = (pattern) => (error) => {
  assert.ok(error instanceof FulmarError, String(error));
  assert.equal(error.code, 'unreachable');
  assert.match(error.message, pattern);
  return true;
};

for (const [what, answer, pattern] of [
  ['a login page', portal, /answer was 200/],
  ['nobody', gone, /No answer from http:\/\/127/],
  ['a proxy', (request, response) => response.writeHead(502).end('<h1>Bad gateway</h1>'), /answer was 502/],
]) {
  test(`where ${what} answers it is said, and is worth another try`, async () => {
    handle = answer;
    await assert.rejects(discover({ base }), typed(pattern));
    const poll = await open('poll', { base });
    await assert.rejects(poll.subscribe('event:a'), typed(pattern));
    const { code, error } = await poll.closed;
    assert.equal(advice(code), 'resume');
    assert.ok(error instanceof FulmarError);
    const sse = await open('sse', { base });
    await assert.rejects(sse.publish('event:a', { data: 1 }), typed(pattern));
    assert.equal(sse.open, true);
    sse.close();
  });
}

test('a proxy\'s refusal is not the server\'s', async () => {
  handle = (request, response) => response.writeHead(404).end('<h1>Not found</h1>');
  const poll = await open('poll', { base });
  await assert.rejects(poll.subscribe('event:a'), typed(/404/));
  assert.equal(advice((await poll.closed).code), 'resume');
});

test('the server\'s own word is kept: its reason, its status, when to come back', async () => {
  handle = answering(503, { code: 'shutting_down', message: 'The server is stopping.' }, { 'retry-after': '7' });
  await assert.rejects(discover({ base }), { code: 'shutting_down', message: 'The server is stopping.', status: 503, retry: 7000 });
  const poll = await open('poll', { base });
  await assert.rejects(poll.subscribe('event:a'), { code: 'shutting_down' });
  const { code, retry } = await poll.closed;
  assert.deepEqual([advice(code), retry], ['resume', 7000]);
});

test('what an error advises', () => {
  const of = (code, status) => new FulmarError(code, 'No.', { status });
  for (const [error, close, passing] of [
    [of('forbidden_origin', 403), CloseCode.REFUSED, false],
    [of('misdirected', 421), CloseCode.REFUSED, false],
    [of('bad_cursor', 400), CloseCode.SESSION_EXPIRED, false],
    [of('fell_behind', 409), CloseCode.FELL_BEHIND, false],
    [of('replaced', 409), CloseCode.REPLACED, true],
    [of('malformed'), CloseCode.PROTOCOL_ERROR, false],
    [of('too_many_subscriptions', 429), CloseCode.LOST, true],
    [of('unknown_session', 401), CloseCode.LOST, true],
    [of('unreachable', 404), CloseCode.LOST, true],
    [of('unreachable', 408), CloseCode.LOST, true],
    [of('node_full', 503), CloseCode.LOST, true],
    [of('payload_too_large', 413), CloseCode.REFUSED, false],
  ]) {
    assert.equal(closeFor(error).code, close, `${error.code} ${error.status}`);
    assert.equal(isPassing(error), passing, error.code);
  }
});

const answer = { cursor: '0000000000000000.e.0', publications: [], control: [], more: false };

test('over HTTP there is an end to channels, and the one beyond it is refused by itself', async () => {
  handle = (request, response) => {
    if (!request.url.includes('wait=')) response.end(JSON.stringify(answer));
  };
  const poll = await open('poll', { base, channels: Array.from({ length: 32 }, (_, i) => `event:${i}`) });
  await assert.rejects(poll.subscribe('event:more'), { code: 'too_many_channels', message: /unsubscribe/ });
  assert.equal(poll.open, true);
  poll.close();
});

test('a connection without a channel is not taken for dead, and one that is asked asks anew', async (context) => {
  const asked = [];
  handle = (request, response) => {
    const { pathname, searchParams } = new URL(request.url, base);
    asked.push(`${pathname} ${searchParams.getAll('channel')} ${searchParams.get('wait') ?? 'at once'}`);
    if (!request.url.includes('wait=')) response.end(JSON.stringify(answer));
  };
  const poll = await open('poll', { base });
  Object.assign(poll, { quiet: 20, patience: 60 });
  const probe = context.mock.method(poll, 'probe');
  const lost = [];
  const heartbeat = new Heartbeat(poll, () => lost.push(1));
  context.after(() => {
    heartbeat.stop();
    poll.close();
  });
  heartbeat.start();
  while (probe.mock.callCount() < 4 && !lost.length) await new Promise(setImmediate);
  heartbeat.stop();
  assert.deepEqual(lost, []);
  await poll.subscribe('event:a');
  const waits = () => asked.filter((request) => request === '/poll event:a 25').length;
  while (waits() < 1) await new Promise(setImmediate);
  asked.length = 0;
  poll.patience = 10_000;
  heartbeat.ask();
  while (waits() < 1) await new Promise(setImmediate);
  assert.deepEqual(asked, ['/poll event:a at once', '/poll event:a 25']);
});

test('an error of a channel names it', async () => {
  handle = (request, response) => {
    const { pathname, searchParams } = new URL(request.url, base);
    if (pathname === '/connect') return void response.end('{}');
    if (searchParams.getAll('channel').includes('host:x')) return answering(403, { code: 'forbidden', message: 'Not yours.' })(request, response);
    if (!searchParams.has('wait')) response.end(JSON.stringify(answer));
  };
  const client = connect(base, { transports: ['poll'] });
  const told = new Promise((resolve) => client.addEventListener('error', ({ detail }) => resolve(detail)));
  const refused = client.subscribe('host:x');
  const other = client.subscribe('event:a');
  await other.ready;
  const { code, channel, message, status } = await told;
  assert.deepEqual([code, channel, message, status], ['forbidden', 'host:x', 'Not yours.', 403]);
  await assert.rejects(refused.ready, { channel: 'host:x' });
  assert.equal(client.status, 'open');
  client.close();
  await assert.rejects(client.publish('event:a', 1), { code: 'closed', message: /Connect anew/ });
});
