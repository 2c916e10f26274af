import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { VERDICT_MS } from '../../client/js/limits.js';
import { Dialler, HEAD_START_MS } from '../../client/js/dial.js';
import { FulmarError } from '../../client/js/errors.js';
import { forget, recall, remember } from '../../client/js/verdict.js';
import { Line, clock, settled } from './memory.mjs';

const ALL = ['webtransport', 'websocket', 'sse', 'poll'];
let serial = 0;

/** A dialler whose transports open and fail when they are told to. */
function dialled(order = ALL, isWanted = true) {
  const base = `http://host${serial++}`;
  const started = [], given = [];
  const ends = new Map();
  const dialler = new Dialler(base, order, (transport) => {
    started.push(transport);
    return new Promise((resolve, reject) => ends.set(transport, { resolve, reject }));
  }, (connection) => isWanted && given.push(connection.transport) > 0);
  const open = (transport) => {
    const line = new Line(transport);
    ends.get(transport).resolve(line);
    return line;
  };
  const fail = (transport, error = new FulmarError('unreachable', `no ${transport}`)) => ends.get(transport).reject(error);
  const key = `fulmar:${base} ${order.join()}`;
  return { dialler, started, given, open, fail, key };
}

describe('the race', () => {
  test('each has its head start before the next is dialled', async (context) => {
    const time = clock(context);
    const { dialler, started } = dialled();
    dialler.dial();
    for (const [i, transport] of ALL.entries()) {
      assert.deepEqual(started, ALL.slice(0, i + 1));
      if (i === 3) break;
      await time.pass(HEAD_START_MS[transport] - 50);
      assert.equal(started.length, i + 1, `${ALL[i + 1]} too soon`);
      await time.pass(50);
    }
  });

  test('one that fails gives way at once, and the first that opens is taken', async (context) => {
    clock(context);
    const { dialler, started, open, fail } = dialled();
    const dialling = dialler.dial();
    fail('webtransport');
    await settled();
    assert.deepEqual(started, ['webtransport', 'websocket']);
    const line = open('websocket');
    assert.equal(await dialling, line);
    assert.deepEqual([...dialler.attempts.values()].map(({ transport, outcome }) => `${transport} ${outcome}`),
      ['webtransport failed', 'websocket open']);
  });

  test('one that fails late takes nothing from the head start of the one after it', async (context) => {
    const time = clock(context);
    const { dialler, started, fail } = dialled();
    dialler.dial();
    await time.pass(500);
    fail('webtransport');
    await time.pass(2950);
    assert.deepEqual(started, ['webtransport', 'websocket']);
    await time.pass(50);
    assert.deepEqual(started, ['webtransport', 'websocket', 'sse']);
  });

  test('a better one that opens late is handed over, a worse one is for the client to refuse', async (context) => {
    const time = clock(context);
    const { dialler, given, open, key } = dialled();
    const dialling = dialler.dial();
    await time.pass(500);
    open('websocket');
    assert.equal((await dialling).transport, 'websocket');
    assert.equal(recall(key, Date.now()), 'websocket');
    const line = open('webtransport');
    await settled();
    assert.deepEqual(given, ['webtransport']);
    assert.equal(line.open, true);
    assert.equal(recall(key, Date.now()), 'webtransport');
    assert.ok(dialler.prefers('webtransport', 'websocket') && !dialler.prefers('websocket', 'webtransport'));
  });

  test('a loser is closed, and not remembered', async (context) => {
    const time = clock(context);
    const { dialler, open, key } = dialled(ALL, false);
    const dialling = dialler.dial();
    await time.pass(500);
    open('webtransport');
    await dialling;
    const line = open('websocket');
    await settled();
    assert.equal(line.open, false);
    assert.equal(recall(key, Date.now()), 'webtransport');
  });

  test('where none opens the server\'s own word is what is said', async (context) => {
    clock(context);
    const { dialler, fail, key } = dialled(['websocket', 'sse']);
    remember(key, 'websocket', Date.now());
    const dialling = dialler.dial();
    fail('websocket', new FulmarError('forbidden_origin', 'Not from here.', { status: 403 }));
    await settled();
    fail('sse');
    await assert.rejects(dialling, { code: 'forbidden_origin' });
    assert.equal(recall(key, Date.now()), null);
  });
});

describe('better ones behind a fallback', () => {
  test('all that are better, until one opens', async (context) => {
    clock(context);
    const { dialler, started, given, open, fail } = dialled();
    const climbing = dialler.dialBetter('sse');
    fail('webtransport');
    await settled();
    open('websocket');
    await climbing;
    assert.deepEqual(started, ['webtransport', 'websocket']);
    assert.deepEqual(given, ['websocket']);
  });

  test('an attempt that a race began is waited for, and its connection given once', async (context) => {
    const time = clock(context);
    const { dialler, started, given, open } = dialled();
    const dialling = dialler.dial();
    await time.pass(500);
    open('websocket');
    await dialling;
    const climbing = dialler.dialBetter('websocket');
    open('webtransport');
    await climbing;
    await settled();
    assert.deepEqual(given, ['webtransport']);
    assert.deepEqual(started, ['webtransport', 'websocket']);
  });

  test('an attempt from behind a fallback that is gone is the next race\'s', async (context) => {
    clock(context);
    const { dialler, given, open } = dialled();
    const climbing = dialler.dialBetter('websocket');
    const dialling = dialler.dial();
    const line = open('webtransport');
    await climbing;
    assert.equal(await dialling, line);
    await settled();
    assert.deepEqual(given, []);
    assert.equal(line.open, true);
  });
});

describe('the verdict', () => {
  test('what worked is dialled first, and the better ones where it fails', async (context) => {
    const time = clock(context);
    const { dialler, started, fail, key } = dialled();
    remember(key, 'sse', Date.now());
    dialler.dial().catch(() => {});
    await time.pass(2950);
    assert.deepEqual(started, ['sse']);
    fail('sse');
    await settled();
    fail('poll');
    await settled();
    assert.deepEqual(started, ['sse', 'poll', 'webtransport']);
  });

  test('is forgotten after some minutes, and in another network', (context) => {
    clock(context);
    const at = Date.now();
    remember('k', 'sse', at);
    assert.equal(recall('k', at + VERDICT_MS - 1), 'sse');
    assert.equal(recall('k', at + VERDICT_MS), null);
    assert.equal(recall('k', at - 1), null, 'the clock was set back');
    const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
    Object.defineProperty(globalThis, 'navigator', { value: { connection: { type: 'cellular' } }, configurable: true });
    try {
      assert.equal(recall('k', at), null);
    } finally {
      if (before) Object.defineProperty(globalThis, 'navigator', before);
      else delete globalThis.navigator;
    }
    Object.defineProperty(globalThis, 'navigator', { value: { connection: { effectiveType: '3g' } }, configurable: true });
    try {
      assert.equal(recall('k', at), 'sse', 'how good it is makes it no other network');
    } finally {
      if (before) Object.defineProperty(globalThis, 'navigator', before);
      else delete globalThis.navigator;
    }
    forget('k');
    assert.equal(recall('k', at), null);
  });

  test('storage that is denied, or holds something else, is as none', (context) => {
    clock(context);
    const stored = new Map([['k', 'not JSON']]);
    const before = Object.getOwnPropertyDescriptor(globalThis, 'localStorage');
    const set = (get) => Object.defineProperty(globalThis, 'localStorage', { get, configurable: true });
    try {
      set(() => ({ getItem: (k) => stored.get(k) ?? null, setItem: (k, v) => stored.set(k, v), removeItem: (k) => stored.delete(k) }));
      assert.equal(recall('k', 1), null);
      remember('k', 'poll', 1);
      assert.equal(recall('k', 1), 'poll');
      set(() => ({ getItem: () => null, setItem: () => { throw new Error('full'); } }));
      remember('k', 'poll', 1);
      set(() => { throw new Error('denied'); });
      remember('denied', 'sse', 1);
      assert.equal(recall('denied', 1), 'sse');
    } finally {
      if (before) Object.defineProperty(globalThis, 'localStorage', before);
      else delete globalThis.localStorage;
    }
  });

  test('a transport that is barred is left out for some minutes, or until the network is another', async (context) => {
    const time = clock(context);
    const { dialler, started, fail, key } = dialled(['sse', 'poll']);
    remember(key, 'sse', Date.now());
    const silent = new FulmarError('held_back', 'silent');
    dialler.bar('sse', silent);
    assert.equal(dialler.attempts.get('sse').error, silent);
    assert.equal(recall(key, Date.now()), 'poll', 'those before it have been tried');
    const dialAgain = async () => {
      started.length = 0;
      const dialling = dialler.dial().catch(() => {});
      for (const transport of ['sse', 'poll']) {
        await settled();
        if (started.includes(transport)) fail(transport);
      }
      await dialling;
      return [...started];
    };
    assert.deepEqual(await dialAgain(), ['poll']);
    await dialler.dialBetter('poll');
    assert.deepEqual(started, ['poll']);
    await time.pass(VERDICT_MS, 10_000);
    assert.deepEqual(await dialAgain(), ['sse', 'poll']);
    dialler.bar('sse', silent);
    dialler.networkChanged();
    assert.deepEqual(await dialAgain(), ['sse', 'poll']);
    dialler.bar('sse', silent);
    dialler.bar('poll', silent);
    assert.deepEqual(await dialAgain(), ['sse', 'poll'], 'where all are barred all are tried');
  });
});
