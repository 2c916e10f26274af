/** Tabs that share one poll: who reads, what the others are told, and what becomes of them when it goes. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { afterEach, beforeEach, test } from 'node:test';
import { buildCursor } from '../../client/js/fulmar.js';
import { entryOf } from '../../client/js/cursor.js';
import { SharedConnection } from '../../client/js/shared.js';
import { openPoll } from '../../client/js/transports/poll.js';

/** Web Locks, as far as they are used. */
class Locks {
  #queues = new Map();

  request(name, { signal }, run) {
    const turn = (this.#queues.get(name) ?? Promise.resolve()).then(() => (signal.aborted ? undefined : run()));
    this.#queues.set(name, turn.catch(() => {}));
    return turn;
  }
}

/** A server of channels of events. */
let server, base, log, polls, waiting, refusal, tabs, hold;
const publish = (channel, data) => {
  log.push({ channel, epoch: 'e', offset: log.filter((one) => one.channel === channel).length + 1, time: 1, data });
  for (const look of [...waiting]) look();
};
beforeEach(async () => {
  [log, polls, waiting, tabs] = [[], [], new Set(), []];
  refusal = hold = null;
  server = createServer((request, response) => {
    const { searchParams: query } = new URL(request.url, 'http://h');
    const channels = query.getAll('channel');
    const after = query.get('after');
    const from = new Map(channels.map((channel) => [channel, (after && entryOf(after, channel)?.offset) ?? log.filter((one) => one.channel === channel).length]));
    const look = () => {
      const publications = log.filter(({ channel, offset }) => offset > (from.get(channel) ?? Infinity));
      if (query.has('wait') && !publications.length && !refusal) return;
      waiting.delete(look);
      polls.splice(polls.indexOf(poll), 1);
      if (refusal) return void response.writeHead(refusal.status).end(JSON.stringify({ error: refusal }));
      for (const { channel, offset } of publications) from.set(channel, offset);
      const cursor = buildCursor([...from].map(([channel, offset]) => ({ channel, epoch: 'e', offset })));
      response.end(JSON.stringify({ cursor, publications, control: [], more: false }));
    };
    const poll = { channels, waits: query.has('wait') };
    polls.push(poll);
    response.on('close', () => {
      if (waiting.delete(look)) polls.splice(polls.indexOf(poll), 1);
    });
    waiting.add(look);
    if (hold === true && channels.length > 1) {
      hold = 'held';
      return;
    }
    look();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  base = `http://127.0.0.1:${server.address().port}`;
  const locks = new Locks();
  Object.defineProperty(globalThis, 'navigator', { value: { locks }, configurable: true });
});
afterEach(() => {
  for (const tab of tabs) tab.close();
  server.closeAllConnections();
  server.close();
});

async function openTab(...channels) {
  const tab = new SharedConnection('poll', { base }, () => openPoll({ base }));
  tabs.push(tab);
  tab.got = [];
  tab.onmessage = ({ data }) => tab.got.push(data);
  await Promise.all(channels.map((channel) => tab.subscribe(channel)));
  return tab;
}
/** What must come, comes; the test has its own end. */
const until = async (is) => {
  while (!is()) await new Promise(setImmediate);
};
const reads = (...channels) => until(() => polls.length === 1 && polls[0].waits
  && JSON.stringify([...polls[0].channels].sort()) === JSON.stringify(channels));

test('one poll reads for all, and the next tab goes on where that was', { timeout: 10_000 }, async () => {
  const first = await openTab('event:a'), second = await openTab('event:a', 'event:b');
  await reads('event:a', 'event:b');
  publish('event:a', 1);
  publish('event:b', 2);
  await until(() => first.got.length === 1 && second.got.length === 2);
  await reads('event:a', 'event:b');
  assert.ok(first.received.bytes > second.received.bytes, 'what comes for all comes to who reads');
  first.close();
  publish('event:a', 3);
  await until(() => second.got.length === 3);
  await reads('event:a', 'event:b');
  publish('event:a', 4);
  await until(() => second.got.length === 4);
  assert.deepEqual([first.got, second.got], [[1], [1, 2, 3, 4]]);
});

test('who comes later goes on from its own place, and nobody hears anything twice', { timeout: 10_000 }, async () => {
  const first = await openTab('event:a');
  await reads('event:a');
  for (const n of [1, 2, 3]) publish('event:a', n);
  await until(() => first.got.length === 3);
  const second = await openTab();
  await second.subscribe('event:a', { after: buildCursor([{ channel: 'event:a', epoch: 'e', offset: 1 }]) });
  assert.deepEqual(second.got, [2, 3]);
  await reads('event:a');
  // Somebody has come less far than whoever reads: what comes again is known to the others.
  const bus = new BroadcastChannel(`fulmar2 poll ${base}`);
  const told = [];
  bus.onmessage = ({ data: { is, message } }) => is === 'told' && told.push(message.data);
  bus.postMessage({ is: 'want', all: [['event:a', { epoch: 'e', offset: 1 }]] });
  await until(() => told.length === 2);
  await reads('event:a');
  publish('event:a', 4);
  await until(() => told.length === 3);
  bus.close();
  await until(() => second.got.length > 2);
  assert.deepEqual([told, first.got, second.got], [[2, 3, 4], [1, 2, 3, 4], [2, 3, 4]]);
});

test('what one tab leaves is read on for the others, and what all leave is not', { timeout: 10_000 }, async () => {
  const first = await openTab('event:a', 'event:b'), second = await openTab('event:a');
  await reads('event:a', 'event:b');
  await first.unsubscribe('event:a');
  await first.unsubscribe('event:b');
  await reads('event:a');
  publish('event:a', 1);
  await until(() => second.got.length);
  assert.deepEqual([first.got, second.got], [[], [1]]);
});

test('a tab that wants more than one poll can read has its own', { timeout: 10_000 }, async () => {
  const all = (what) => Array.from({ length: 20 }, (_, i) => `event:${what}${i}`);
  const first = await openTab(...all('a')), second = await openTab(...all('b'));
  await until(() => polls.filter(({ waits }) => waits).length > 1);
  for (const channel of [...all('a'), ...all('b')]) publish(channel, channel);
  await until(() => first.got.length >= 20 && second.got.length >= 20);
  assert.deepEqual([first.got.sort(), second.got.sort()], [all('a').sort(), all('b').sort()]);
});

test('why it ended is told to all', { timeout: 10_000 }, async () => {
  const first = await openTab('event:a'), second = await openTab('event:a');
  await reads('event:a');
  refusal = { code: 'shutting_down', message: 'The server is stopping.', status: 503 };
  publish('event:a', 1);
  for (const tab of [first, second]) {
    const { error, code, reason } = await tab.closed;
    assert.deepEqual([code, reason, error.code, error.status], [1006, 'The server is stopping.', 'shutting_down', 503]);
  }
});

test('who says from where is read from there, also behind one who did not', { timeout: 10_000 }, async () => {
  const first = await openTab('event:b');
  await reads('event:b');
  for (const n of [1, 2, 3]) publish('event:a', n);
  const bus = new BroadcastChannel(`fulmar2 poll ${base}`);
  const told = [];
  bus.onmessage = ({ data: { is, message } }) => is === 'told' && told.push(message.data);
  bus.postMessage({ is: 'want', all: [['event:a', null]] });
  bus.postMessage({ is: 'want', all: [['event:a', { epoch: 'e', offset: 1 }]] });
  await reads('event:a', 'event:b');
  publish('event:a', 4);
  await until(() => told.includes(4));
  bus.close();
  assert.deepEqual([told, first.got], [[2, 3, 4], []]);
});

test('who wants another channel while it catches up hears nothing twice', { timeout: 10_000 }, async () => {
  const name = `fulmar2 poll ${base}`;
  const ended = new AbortController();
  navigator.locks.request(name, ended, () => new Promise((resolve) => (ended.signal.onabort = resolve)));
  const bus = new BroadcastChannel(name);
  const tab = await openTab();
  let other;
  tab.onmessage = ({ data }) => {
    if (tab.got.push(data) > 1) return;
    other = tab.subscribe('event:b');
    hold = true;
  };
  publish('event:a', 1);
  const subscribed = tab.subscribe('event:a', { after: buildCursor([{ channel: 'event:a', epoch: 'e', offset: 0 }]) });
  await until(() => hold === 'held');
  // The poll is under way when another tab tells what it will bring.
  log.push({ ...log[0], offset: 2, data: 2 });
  bus.postMessage({ is: 'told', message: { ...log[1], type: 'publication', key: '', removed: false } });
  await new Promise((resolve) => setTimeout(resolve, 50));
  for (const look of waiting) look();
  await Promise.all([subscribed, other]);
  bus.close();
  ended.abort();
  assert.deepEqual(tab.got, [1, 2]);
});

test('who closes in the turn in which it has the lock gives it up, and reads nothing', { timeout: 10_000 }, async () => {
  let held, reader;
  navigator.locks.request = (name, options, run) => (held = run());
  const tab = new SharedConnection('poll', { base }, async () => (reader = await openPoll({ base })));
  tab.close();
  await held;
  assert.equal(reader.open, false);
});

test('who reads for all and closes with what it is told says nothing more', { timeout: 10_000 }, async (context) => {
  const first = await openTab('event:a');
  await reads('event:a');
  const thrown = [];
  context.mock.method(globalThis, 'setTimeout', ((set) => (run, ms, ...rest) => {
    // What a handler throws is thrown again outside.
    if (ms !== undefined) return set(run, ms, ...rest);
    return set(() => {
      try {
        run();
      } catch (error) {
        thrown.push(error.name);
      }
    });
  })(setTimeout));
  first.onmessage = () => {
    first.got.push(1);
    first.close();
  };
  // Two come with one answer.
  log.push({ channel: 'event:a', epoch: 'e', offset: 1, time: 1, data: 1 });
  publish('event:a', 2);
  await first.closed;
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([first.got, thrown], [[1], []]);
});
