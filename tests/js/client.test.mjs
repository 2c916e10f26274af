import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MAX_PAUSE_MS } from '../../client/js/limits.js';
import { buildCursor } from '../../client/js/cursor.js';
import { FulmarError } from '../../client/js/errors.js';
import { connected, listen } from './connected.mjs';
import { settled } from './memory.mjs';

describe('a client', () => {
  test('says who it is, subscribes, publishes, and tells what becomes of it', async (context) => {
    const { server, client, line, events, of } = connected(context);
    const { got, subscription } = listen(client, 'event:a');
    await client.ready;
    await subscription.ready;
    assert.equal((await client.publish('event:a', 'one')).offset, 1);
    await settled();
    assert.deepEqual(got, ['one']);
    assert.deepEqual(line().said.map(({ type }) => type), ['attach', 'subscribe', 'publish']);
    assert.equal(line().said[0].fresh, true);
    assert.match(line().said[0].secret, /^[\w-]{32}$/);
    client.close('enough');
    assert.deepEqual(await client.closed, { code: 1000, reason: 'enough' });
    assert.deepEqual(of('status'), ['connecting', 'open', 'closed']);
    assert.equal(client.reconnects, 0);
    assert.deepEqual(events.at(-1), ['close', { code: 1000, reason: 'enough' }]);
    assert.equal(server.lines.length, 1);
    assert.equal(line().open, false);
    await assert.rejects(client.publish('event:a', 'x'), { code: 'closed' });
    assert.throws(() => client.subscribe('event:a'), { code: 'closed' });
    assert.equal(client.signal('signal:a', 1), false);
  });

  test('goes on where it was, as the same session, and its publications are applied once', async (context) => {
    const { time, server, client, line } = connected(context);
    const { got, subscription } = listen(client, 'event:a');
    await subscription.ready;
    await client.publish('event:a', 'one');
    const first = line();
    server.intercept = (_, { type }) => type === 'publish';
    const publishing = client.publish('event:a', 'lost');
    await settled();
    server.intercept = () => false;
    first.end({ code: 1006, reason: 'gone' });
    server.publish('event:a', 'meanwhile');
    assert.equal(client.transport, 'websocket');
    await settled();
    assert.equal(client.transport, null);
    const waiting = client.publish('event:a', 'later');
    await time.pass(500);
    assert.equal((await publishing).offset, 3);
    assert.equal((await waiting).offset, 4);
    await settled();
    assert.deepEqual(got, ['one', 'meanwhile', 'lost', 'later']);
    assert.equal(line().said[0].secret, first.said[0].secret);
    assert.equal(client.reconnects, 1);
  });

  test('a close before the first connection', async (context) => {
    const { client } = connected(context, { open: () => new Promise(() => {}) });
    const { subscription } = listen(client, 'event:a');
    client.close();
    await assert.rejects(client.ready, { code: 'closed' });
    assert.equal((await client.closed).code, 1000);
    assert.equal(client.status, 'closed');
    await subscription.ready.catch(() => {});
  });

  test('one that opens after the close is closed', async (context) => {
    let opened;
    const { client, server } = connected(context, { open: () => new Promise((resolve) => (opened = resolve)) });
    client.close();
    opened();
    await settled();
    assert.equal(server.lines[0].open, false);
    assert.equal(client.transport, null);
  });

  test('a channel that is left and taken again at once is read', async (context) => {
    const { server, client } = connected(context);
    const first = listen(client, 'event:a');
    await first.subscription.ready;
    first.subscription.unsubscribe();
    const second = listen(client, 'event:a');
    second.subscription.unsubscribe();
    const third = listen(client, 'event:a');
    await settled();
    server.publish('event:a', 'one');
    await settled();
    assert.deepEqual([first.got, second.got, third.got], [[], [], ['one']]);
  });

  test('a channel that is taken in a handler is asked for once', async (context) => {
    const { server, client, line } = connected(context);
    const got = [];
    client.addEventListener('status', () => {
      if (client.status === 'open') got.push(listen(client, 'event:a').got);
    });
    await client.ready;
    client.ready.then(() => got.push(listen(client, 'event:b').got));
    await settled();
    server.publish('event:a', 'a');
    server.publish('event:b', 'b');
    await settled();
    assert.deepEqual(got, [['a'], ['b']]);
    assert.equal(line().said.filter(({ type }) => type === 'subscribe').length, 2);
  });

  test('a channel that is taken just as a connection opens is asked for once', async (context) => {
    let client;
    const all = [];
    const { line, of, client: connecting } = connected(context, { open: async () => {
      queueMicrotask(async () => {
        for (let i = 0; i < 40; i++) await all.push(client.subscribe(`event:${i}`, { onPublication() {} }));
      });
    } });
    client = connecting;
    await client.ready;
    await Promise.all(all.map(({ ready }) => ready));
    await settled();
    assert.equal(line().said.filter(({ type }) => type === 'subscribe').length, 40);
    assert.deepEqual(of('error'), []);
  });

  test('a channel that is refused says why, and the others go on', async (context) => {
    const { server, client, of } = connected(context);
    server.intercept = (line, { type, channel, ref }) => {
      if (type !== 'subscribe' || channel !== 'host:x') return false;
      line.say({ type: 'error', ref, error: { code: 'forbidden', message: 'Not yours.' } });
      return true;
    };
    const refused = listen(client, 'host:x');
    const other = listen(client, 'event:a');
    await assert.rejects(refused.subscription.ready, { code: 'forbidden', message: /Not yours\./ });
    await assert.rejects(client.state('host:x').ready, { code: 'forbidden' });
    await other.subscription.ready;
    server.publish('event:a', 'one');
    await settled();
    assert.deepEqual([refused.got, other.got], [['error forbidden'], ['one']]);
    assert.deepEqual(of('error').map(({ code }) => code), ['forbidden', 'forbidden']);
    assert.equal(client.status, 'open');
  });

  for (const code of ['shutting_down', 'unreachable']) test(`${code} says nothing of the channel, which is asked for again on the next connection`, async (context) => {
    const { time, server, client } = connected(context);
    let refusals = 0;
    server.intercept = (line, { type, ref }) => {
      if (type !== 'subscribe' || refusals++) return false;
      line.say({ type: 'error', ref, error: { code, message: 'Come back.' } });
      return true;
    };
    const { got } = listen(client, 'event:a');
    await client.ready;
    await time.pass(500);
    server.publish('event:a', 'one');
    await settled();
    assert.deepEqual(got, ['one']);
  });

  test('an error that answers nothing is told', async (context) => {
    const { client, line, of } = connected(context);
    await client.ready;
    line().say({ type: 'error', error: { code: 'forbidden', message: 'No.' } });
    assert.deepEqual(of('error').map(({ code }) => code), ['forbidden']);
  });

  test('signals are sent where there is a connection, and not kept', async (context) => {
    const { client, line } = connected(context);
    assert.equal(client.signal('signal:a', 1), false);
    await client.ready;
    assert.equal(client.signal('signal:a', 2, { ttl_ms: 50 }), true);
    await settled();
    const [{ data, ttl_ms: ttl, id }] = line().said.filter(({ type }) => type === 'publish');
    assert.deepEqual([data, ttl, id], [2, 50, undefined]);
  });
});

describe('coming back', () => {
  const pauses = (dialled) => dialled.slice(1).map(({ at }, i) => at - dialled[i].at);

  test('full jitter under a bound that doubles to 30 s, and begins anew after a connection that held', async (context) => {
    let value = 0.999;
    let failing = true;
    const { time, dialled, line, client } = connected(context, {
      random: () => value, open: () => { if (failing) throw new FulmarError('unreachable', 'No.'); } });
    await time.pass(100_000);
    const rounded = (list) => list.map((ms) => Math.round(ms / 500) * 500);
    assert.deepEqual(rounded(pauses(dialled)).slice(0, 8), [500, 1000, 2000, 4000, 8000, 16_000, MAX_PAUSE_MS, MAX_PAUSE_MS]);
    value = 0;
    const before = dialled.length;
    await time.pass(30_000);
    await time.pass(500);
    assert.ok(dialled.length > before + 3, 'from nothing up');
    failing = false;
    await time.pass(50);
    assert.equal(client.status, 'open');
    // One that falls soon is as none.
    value = 0.5;
    await time.pass(9000);
    line().end({ code: 1006, reason: '' });
    await settled();
    const short = dialled.length;
    await time.pass(14_900);
    assert.equal(dialled.length, short);
    await time.pass(200);
    assert.equal(dialled.length, short + 1);
    await time.pass(10_100);
    line().end({ code: 1006, reason: '' });
    await time.pass(300);
    assert.equal(dialled.length, short + 2, 'one that has held begins anew');
  });

  test('after 4000 no sooner and no later than the server asked', async (context) => {
    const { time, line, dialled, client } = connected(context);
    await client.ready;
    line().say({ type: 'close', code: 4000, reason: 'going_away', retry_ms: 7000 });
    line().close(4000);
    await time.pass(6900);
    assert.equal(dialled.length, 1);
    await time.pass(150);
    assert.equal(dialled.length, 2);
  });

  test('after 4501 it comes back, and the gap is told', async (context) => {
    const { time, server, client, line, of } = connected(context);
    const { got, subscription } = listen(client, 'event:a');
    await subscription.ready;
    await client.publish('event:a', 1);
    line().end({ code: 4501, reason: 'fell_behind' });
    server.publish('event:a', 2);
    server.publish('event:a', 3);
    server.trim('event:a', 1);
    await time.pass(500);
    assert.deepEqual(got, [1, 'gap 2', 3]);
    assert.deepEqual(of('gap').map(({ channel, offset }) => [channel, offset]), [['event:a', 2]]);
  });

  test('after 4500 it is another session', async (context) => {
    const { time, server, line, client } = connected(context);
    await client.ready;
    line().end({ code: 4500, reason: 'session_expired' });
    await time.pass(500);
    const secrets = server.lines.map(({ said }) => said[0].secret);
    assert.equal(secrets.length, 2);
    assert.notEqual(secrets[0], secrets[1]);
  });

  for (const code of [1000, 4901, 4902]) {
    test(`after ${code} of the server it stays away, and says why`, async (context) => {
      const { time, client, line, dialled } = connected(context);
      const { subscription, got } = listen(client, 'event:a');
      await subscription.ready;
      const publishing = client.publish('event:never', 1);
      line().end({ code, reason: 'the reason' });
      await assert.rejects(publishing, { code: 'closed', message: /the reason/ });
      assert.deepEqual(await client.closed, { code, reason: 'the reason' });
      await time.pass(60_000, 1000);
      assert.equal(dialled.length, 1);
      assert.deepEqual(got, code === 1000 ? [] : ['error closed']);
    });
  }

  for (const [status, code] of [[403, 'forbidden_origin'], [421, 'misdirected']]) {
    test(`a server that answers ${status} is not asked again`, async (context) => {
      const error = new FulmarError(code, 'Not from here.', { status });
      const { time, client, dialled } = connected(context, { open: () => { throw error; } });
      await assert.rejects(client.ready, { code, message: /Not from here/ });
      const close = await client.closed;
      assert.equal(close.code, 4902);
      assert.equal(close.error, error);
      assert.match(close.reason, /Not from here/);
      await time.pass(60_000, 1000);
      assert.equal(dialled.length, 1);
    });
  }

  for (const [status, code, pause] of [[429, 'too_many_sessions', 4000], [503, 'shutting_down', 9000], [503, 'node_full', 2000]]) {
    test(`a server that answers ${status} ${code} is asked again when it says`, async (context) => {
      const { time, client, dialled, of } = connected(context, { open: (_, count) => {
        if (count === 1) throw new FulmarError(code, 'Later.', { status, retry: pause });
      } });
      await time.pass(pause - 100);
      assert.equal(dialled.length, 1);
      assert.equal(client.status, 'waiting');
      await time.pass(150);
      assert.equal(client.status, 'open');
      assert.deepEqual(of('error').map((error) => error.code), [code]);
    });
  }

  test('a status that is not the server\'s own word is somebody\'s on the way', async (context) => {
    const { time, client, dialled } = connected(context, { open: (_, count) => {
      if (count === 1) throw new FulmarError('unreachable', 'The server answered 404.', { status: 404 });
    } });
    await time.pass(500);
    assert.equal(dialled.length, 2);
    assert.equal(client.status, 'open');
  });

  test('a sign of hope cuts the wait short', async (context) => {
    const { client, line, dialled } = connected(context);
    await client.ready;
    line().say({ type: 'close', code: 4000, reason: '', retry_ms: 60_000 });
    line().close(4000);
    await settled();
    assert.equal(client.status, 'waiting');
    client.networkChanged();
    await settled();
    assert.equal(client.status, 'open');
    assert.equal(dialled.length, 2);
  });

  test('who is told of an error may close the client', async (context) => {
    const { time, client, dialled, of } = connected(context, { open: () => {
      throw new FulmarError('unsupported', 'There is none here.');
    } });
    client.addEventListener('error', () => client.close());
    await client.closed;
    await time.pass(1000);
    assert.deepEqual([client.status, client.retryAt, dialled.length], ['closed', null, 1]);
    assert.deepEqual(of('status'), ['connecting', 'closed']);
  });

  test('a sign of hope while it dials cuts the next wait short, and no other', async (context) => {
    let open, fail;
    const { client, line, dialled } = connected(context, { open: () => new Promise((resolve, reject) => {
      open = resolve;
      fail = () => reject(new FulmarError('unreachable', 'No.'));
    }) });
    await settled();
    client.wake();
    fail();
    await settled();
    assert.deepEqual([client.status, dialled.length], ['connecting', 2]);
    client.wake();
    open();
    await settled();
    assert.equal(client.status, 'open');
    line().end({ code: 1006, reason: 'cut off' });
    await settled();
    assert.equal(client.status, 'waiting', 'what was hoped for came');
  });

  test('a page that is put away has no connection until it is back', async (context) => {
    const { time, client, line, dialled } = connected(context);
    await client.ready;
    client.suspend();
    assert.equal(line().open, false);
    await time.pass(120_000, 1000);
    assert.equal(dialled.length, 1);
    client.wake();
    await settled();
    assert.equal(client.status, 'open');
    client.suspend();
    client.wake();
    await time.pass(500);
    assert.equal(client.status, 'open', 'at once');
    client.suspend();
    client.close();
    await client.closed;
  });

  test('an event stream that is held back is given up for some minutes, without a wait', async (context) => {
    const { time, client, line, dialled } = connected(context, { transports: ['sse', 'poll'] });
    await client.ready;
    const error = new FulmarError('held_back', 'silent');
    line().end({ code: 1006, reason: 'silent', error });
    await settled();
    await time.pass(1);
    assert.deepEqual(dialled.map(({ transport }) => transport), ['sse', 'poll']);
    assert.equal(client.transport, 'poll');
    assert.equal(client.attempts.find(({ transport }) => transport === 'sse').error, error);
  });
});

describe('a channel over its connections', () => {
  test('a gap between two connections that overlapped is told where something is missing, and only then', async (context) => {
    let blocked = true;
    const { time, server, client } = connected(context, { transports: ['webtransport', 'websocket'], open: (transport) => {
      if (transport === 'webtransport' && blocked) throw new FulmarError('unreachable', 'UDP is blocked.');
    } });
    const { got, subscription } = listen(client, 'event:a');
    await subscription.ready;
    server.publish('event:a', 1);
    blocked = false;
    server.intercept = (line, { type }) => {
      // The connection before is there until it is told to go.
      if (type === 'attach') return true;
      if (type !== 'subscribe') return false;
      // The position it asks from is forgotten before it is read, and the one before has brought what follows.
      server.intercept = () => false;
      server.publish('event:a', 2);
      server.publish('event:a', 3);
      server.trim('event:a', 1);
      return false;
    };
    await time.pass(5100);
    server.publish('event:a', 4);
    await settled();
    assert.deepEqual(got, [1, 2, 3, 4]);
    assert.equal(client.moves, 1);
    assert.deepEqual(server.lines.map(({ open }) => open), [false, true]);
  });

  /** The next connection brings so many messages behind its subscription, and is lost then. */
  const brings = async (time, server, count) => {
    server.intercept = (line, { type }) => {
      if (type === 'subscribe') line.held ??= [];
      return false;
    };
    await time.pass(500);
    server.intercept = () => false;
    const line = server.lines.at(-1);
    line.arrive(count);
    await settled();
    line.end({ code: 1006, reason: '' });
    await time.pass(1000);
  };

  test('a connection that is lost behind its answer has told of no gap', async (context) => {
    const { time, server, client, line } = connected(context);
    const { got, subscription } = listen(client, 'event:a');
    await subscription.ready;
    server.publish('event:a', 1);
    server.publish('event:a', 2);
    line().end({ code: 1006, reason: 'restart' });
    server.renew('event:a');
    for (const n of [3, 4, 5]) server.publish('event:a', n);
    server.trim('event:a', 1);
    await brings(time, server, 1);
    assert.deepEqual(got, [1, 2, 'gap 2', 5]);
  });

  for (const [count, what] of [[1, 'behind its answer'], [2, 'behind a reset'], [4, 'within a snapshot']]) {
    test(`a connection that is lost ${what} leaves no position of state`, async (context) => {
      const { time, server, client } = connected(context, { open: (_, dialled) => {
        if (dialled === 1) throw new FulmarError('unreachable', 'Not yet.');
      } });
      for (const key of ['k', 'l', 'm']) server.publish('state:a', key, key);
      const state = client.state('state:a');
      await brings(time, server, count);
      assert.equal(server.lines.length, 2);
      assert.equal(server.lines[1].said.find(({ type }) => type === 'subscribe').position, undefined);
      assert.ok(state.synced);
      assert.equal(state.size, 3);
    });
  }

  test('a position that the server never got to is told as a gap', async (context) => {
    const { server, client } = connected(context);
    const { epoch } = server.publish('event:a', 1);
    const { got, subscription } = listen(client, 'event:a', { after: buildCursor([{ channel: 'event:a', epoch, offset: 100 }]) });
    await subscription.ready;
    await settled();
    server.publish('event:a', 2);
    await settled();
    assert.deepEqual(got, ['gap 0', 1, 2]);
  });

  test('state of a channel that was read on from a cursor is whole', async (context) => {
    const { server, client } = connected(context);
    server.publish('state:a', 'one', 'k');
    const first = client.subscribe('state:a', { onPublication() {} });
    await first.ready;
    await settled();
    const { cursor } = first;
    first.unsubscribe();
    await settled();
    const { got, subscription } = listen(client, 'state:a', { after: cursor });
    await subscription.ready;
    const state = client.state('state:a');
    await state.ready;
    assert.deepEqual([...state], [['k', 'one']]);
    server.publish('state:a', 'two', 'k');
    await settled();
    assert.equal(state.get('k'), 'two');
    assert.equal(got.at(-1), 'two');
  });

  test('who is closed while it dials, dials nothing more', async (context) => {
    const { time, client, dialled, server } = connected(context, { transports: ['webtransport', 'websocket'],
      open: (transport) => transport === 'webtransport' && new Promise(() => {}) });
    await time.pass(100);
    client.close();
    await time.pass(5000);
    assert.deepEqual([dialled.map(({ transport }) => transport), server.lines.length], [['webtransport'], 0]);
  });

  test('where a subscription that could not be taken for now began, the next connection begins', async (context) => {
    const { time, server, client, line } = connected(context);
    const { epoch } = server.publish('event:a', 'one');
    server.publish('event:a', 'two');
    server.intercept = (at, { type, ref }) => type === 'subscribe' && at === server.lines[0]
      && (at.say({ type: 'error', ref, error: { code: 'node_full', message: 'Later.' } }), true);
    const { got, subscription } = listen(client, 'event:a', { after: buildCursor([{ channel: 'event:a', epoch, offset: 1 }]) });
    await client.ready;
    await time.pass(2000);
    await subscription.ready;
    await settled();
    assert.equal(server.lines.length, 2);
    assert.deepEqual(got, ['two']);
  });

  test('who comes later to a state is told what the others know', async (context) => {
    const { server, client, line } = connected(context);
    server.publish('state:a', 'one', 'k');
    const state = client.state('state:a');
    await state.ready;
    await settled();
    const { got, subscription } = listen(client, 'state:a');
    await subscription.ready;
    assert.deepEqual(got, ['one', 'synced 1']);
    const second = client.state('state:a');
    await second.ready;
    assert.deepEqual([...second], [['k', 'one']]);
    assert.equal(line().said.filter(({ type }) => type === 'subscribe').length, 1);
    subscription.unsubscribe();
    second.close();
    await settled();
    assert.equal(line().said.filter(({ type }) => type === 'unsubscribe').length, 0);
    state.close();
    await settled();
    assert.equal(line().said.filter(({ type }) => type === 'unsubscribe').length, 1);
    assert.equal(state.get('k'), 'one', 'what is held stays to be read');
  });
});
