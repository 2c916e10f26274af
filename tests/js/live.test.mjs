import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { HIGH_WATER, LOW_WATER } from '../../client/js/limits.js';
import { Channel } from '../../client/js/channel.js';
import { LiveState } from '../../client/js/live.js';
import { Subscription } from '../../client/js/subscription.js';
import { Line, settled } from './memory.mjs';

/** A channel on one connection, and what its client is asked for. */
function channelOf(name) {
  const asked = [];
  const note = (what) => () => asked.push(what);
  const pause = (it) => {
    asked.push('pause');
    it.paused = true;
    it.lose(line);
  };
  const channel = new Channel(name, { pause, resume: note('resume'), drop: note('drop'), gap: note('gap') }, null);
  const line = new Line('websocket');
  line.onmessage = (message) => channel.take(line, message);
  line.say({ type: 'subscribed', channel: name, epoch: 'e', offset: 0 });
  let offset = 0;
  return {
    channel, line, asked,
    say: (type, more = {}) => line.say({ type, channel: name, epoch: 'e', offset, ...more }),
    publish: (data, key = '', more = {}) => line.say(
      { type: 'publication', channel: name, epoch: 'e', offset: ++offset, time: offset, key, removed: false, data, ...more }),
  };
}

describe('live state', () => {
  function living() {
    const it = channelOf('state:a');
    const state = new LiveState(it.channel);
    it.channel.add(state);
    const changes = [];
    const off = state.onChange((change) => changes.push(change));
    return { ...it, state, changes, off };
  }

  test('changes are told once, with what was before', async () => {
    const { state, changes, say, publish } = living();
    say('reset');
    publish('one', 'k');
    assert.equal(state.synced, false);
    say('synced');
    await state.ready;
    assert.equal(state.synced, true);
    publish('two', 'k');
    publish('two', 'k', { offset: 2 });
    publish('late', 'k', { offset: 1 });
    publish({ a: 1 });
    publish(undefined, 'k', { removed: true, data: undefined });
    publish(undefined, 'never there', { removed: true, data: undefined });
    assert.deepEqual(changes.map(({ key, value, previous, removed }) => [key, value, previous, removed]), [
      ['k', 'one', undefined, false], ['k', 'two', 'one', false], ['', { a: 1 }, undefined, false], ['k', undefined, 'two', true]]);
    assert.deepEqual(changes[0].time, 1);
    assert.deepEqual([...state], [['', { a: 1 }]]);
    assert.deepEqual([state.size, state.has('k'), state.get(), [...state.keys()], [...state.values()]], [1, false, { a: 1 }, [''], [{ a: 1 }]]);
  });

  test('a value that overtakes the reset of the first snapshot is held, one that the snapshot replaces is not', () => {
    const { state, changes, say, publish } = living();
    publish('old', 'gone', { offset: 3 });
    publish('new', 'k', { offset: 5 });
    publish('other', 'k', { offset: 9, epoch: 'before' });
    say('reset', { offset: 4 });
    say('synced', { offset: 4 });
    assert.deepEqual([...state], [['k', 'new']]);
    assert.deepEqual(changes.map(({ key, value }) => [key, value]), [['k', 'new']]);
  });

  test('what is of another epoch than the last reset waits for its own, or for nothing', () => {
    const { say, publish, channel, state } = living();
    const told = [];
    const note = ({ type, data, offset }) => told.push(data ?? `${type} ${offset}`);
    channel.add(new Subscription(channel, { onPublication: note, onReset: note, onSynced: note }));
    say('reset', { offset: 0 });
    publish('early', 'k', { offset: 5, epoch: 'e2' });
    publish('old', 'k', { offset: 9, epoch: 'e0' });
    say('synced', { offset: 0 });
    assert.equal(state.size, 0);
    say('reset', { offset: 4, epoch: 'e2' });
    say('synced', { offset: 4, epoch: 'e2' });
    assert.deepEqual(told, ['reset 0', 'synced 0', 'reset 4', 'early', 'synced 4']);
    assert.deepEqual([...state], [['k', 'early']]);
  });

  test('who closes it at one of the keys that are gone keeps the others', () => {
    const { state, changes, say, publish } = living();
    say('reset', { offset: 0 });
    for (const key of ['k', 'l', 'm']) publish(1, key);
    say('synced');
    changes.length = 0;
    state.onChange(() => state.close());
    say('reset', { offset: 0, epoch: 'e2' });
    say('synced', { offset: 0, epoch: 'e2' });
    assert.deepEqual([changes.map(({ key }) => key), [...state.keys()]], [['k'], ['l', 'm']]);
  });

  test('a snapshot after a restart takes no key away that it brings again', () => {
    const { state, changes, say, publish } = living();
    say('reset');
    publish('one', 'k');
    publish('one', 'gone');
    say('synced');
    changes.length = 0;
    say('reset', { epoch: 'e2', offset: 9 });
    assert.deepEqual([...state], [['k', 'one'], ['gone', 'one']], 'shown on');
    assert.equal(state.synced, true);
    publish('anew', 'k', { epoch: 'e2', offset: 3 });
    assert.deepEqual(changes.map(({ key, value, previous }) => [key, value, previous]), [['k', 'anew', 'one']]);
    assert.equal(state.has('gone'), true);
    say('synced', { epoch: 'e2', offset: 9 });
    assert.deepEqual(changes.slice(1).map(({ key, removed, previous }) => [key, removed, previous]), [['gone', true, 'one']]);
    assert.ok(Number.isNaN(changes[1].time));
  });

  test('a snapshot of the same history changes nothing that is known', () => {
    const { state, changes, say, publish, channel } = living();
    const told = [];
    channel.add(new Subscription(channel, { onPublication: ({ data, offset }) => told.push(`${data} ${offset}`) }));
    say('reset', { offset: 0 });
    publish('one', 'k');
    publish('two', 'l');
    say('synced');
    changes.length = 0;
    say('reset', { offset: 2 });
    publish('one', 'k', { offset: 1 });
    publish('two', 'l', { offset: 2 });
    say('synced', { offset: 2 });
    assert.deepEqual(changes, []);
    publish('two', 'l', { offset: 2 });
    assert.deepEqual(told, ['one 1', 'two 2', 'one 1', 'two 2'], 'to who was told to forget, and no more');
    assert.equal(state.size, 2);
  });

  test('a listener that fails keeps nothing from the others, and one that left hears nothing', async (context) => {
    const { changes, state, off, publish, say } = living();
    const later = context.mock.method(globalThis, 'setTimeout', () => {});
    say('reset');
    state.onChange(() => { throw new Error('mine'); });
    const others = [];
    state.onChange(({ key }) => others.push(key));
    publish(1, 'a');
    off();
    publish(2, 'b');
    assert.deepEqual([changes.length, others], [1, ['a', 'b']]);
    assert.throws(() => later.mock.calls[0].arguments[0](), /mine/);
  });

  test('once closed it changes no more; where it never was ready it says so', async () => {
    const { state, changes, say, publish, asked } = living();
    say('reset');
    publish(1, 'k');
    state.close();
    publish(2, 'k');
    assert.deepEqual([state.get('k'), changes.length, asked], [1, 1, ['drop']]);
    await assert.rejects(state.ready, { code: 'closed' });
  });

  test('a refusal is the end of it', async () => {
    const { state, channel } = living();
    channel.end(new Error('Not yours.'));
    await assert.rejects(state.ready, /Not yours/);
  });
});

describe('a subscription as an iterator', () => {
  function iterating(name = 'event:a') {
    const it = channelOf(name);
    const subscription = new Subscription(it.channel, {});
    it.channel.add(subscription);
    return { ...it, subscription, iterator: subscription[Symbol.asyncIterator]() };
  }
  const take = async (iterator, count) => {
    const taken = [];
    for (let i = 0; i < count; i++) taken.push((await iterator.next()).value.data);
    return taken;
  };

  test('waits, and gives in order', async () => {
    const { publish, iterator } = iterating();
    const first = iterator.next();
    publish(1);
    publish(2);
    assert.equal((await first).value.data, 1);
    assert.deepEqual(await take(iterator, 1), [2]);
  });

  test('asks for a pause at the high-water mark, and to go on below the low one', async () => {
    const { publish, iterator, asked, subscription } = iterating();
    for (let i = 0; i < HIGH_WATER - 1; i++) publish(i);
    await settled();
    assert.deepEqual(asked, []);
    publish(HIGH_WATER - 1);
    assert.deepEqual(asked, [], 'behind what comes with it');
    publish(HIGH_WATER);
    await settled();
    assert.deepEqual(asked, ['pause']);
    assert.ok(subscription.full);
    publish('void');
    await take(iterator, HIGH_WATER + 1 - LOW_WATER);
    assert.deepEqual(asked, ['pause']);
    const [next] = await take(iterator, 1);
    assert.equal(next, HIGH_WATER + 1 - LOW_WATER);
    assert.deepEqual(asked, ['pause', 'resume']);
  });

  test('one that is slow keeps the others waiting too, and a slow one that leaves no more', async () => {
    const { publish, iterator, asked, channel, subscription } = iterating();
    const other = new Subscription(channel, {});
    channel.add(other);
    for (let i = 0; i < HIGH_WATER; i++) publish(i);
    await settled();
    await take(iterator, HIGH_WATER);
    assert.deepEqual(asked, ['pause'], 'the other is as full');
    other.unsubscribe();
    assert.deepEqual(asked, ['pause', 'resume']);
    subscription.unsubscribe();
    assert.deepEqual(asked, ['pause', 'resume', 'drop']);
  });

  test('state needs no pause: the newest of each key waits, in the order of their publications', async () => {
    const { say, publish, iterator, asked } = iterating('state:a');
    say('reset');
    for (let i = 0; i < HIGH_WATER * 4; i++) publish(i, `k${i % (HIGH_WATER * 2)}`);
    await settled();
    assert.deepEqual(asked, []);
    assert.deepEqual(await take(iterator, 3), [HIGH_WATER * 2, HIGH_WATER * 2 + 1, HIGH_WATER * 2 + 2]);
  });

  test('ends when it is left, without what waited', async () => {
    const { publish, iterator, subscription, asked } = iterating();
    publish(1);
    subscription.unsubscribe();
    assert.deepEqual(await iterator.next(), { value: undefined, done: true });
    assert.deepEqual(asked, ['drop']);
    const second = iterating();
    second.publish(1);
    second.publish(2);
    for await (const { data } of second.subscription) {
      assert.equal(data, 1);
      break;
    }
    assert.deepEqual(second.asked, ['drop']);
    const third = iterating();
    const waiting = third.iterator.next();
    third.subscription.unsubscribe();
    assert.equal((await waiting).done, true);
  });

  test('a refusal is thrown behind what came before it', async () => {
    const { publish, iterator, channel } = iterating();
    publish(1);
    channel.end(new Error('Not any more.'));
    assert.deepEqual(await take(iterator, 1), [1]);
    await assert.rejects(iterator.next(), /Not any more/);
  });

  test('two that wait at once are both served', async () => {
    const { publish, iterator } = iterating();
    const both = Promise.all([iterator.next(), iterator.next()]);
    publish(1);
    publish(2);
    assert.deepEqual((await both).map(({ value }) => value.data), [1, 2]);
  });

  test('callbacks and an iterator do not go together', () => {
    const { channel } = channelOf('event:a');
    assert.throws(() => new Subscription(channel, { onPublication() {} })[Symbol.asyncIterator](), TypeError);
  });

  test('a handler that fails does not stop the reading', async (context) => {
    const later = context.mock.method(globalThis, 'setTimeout', () => {});
    const { channel, publish } = channelOf('event:a');
    const got = [];
    channel.add(new Subscription(channel, { onPublication({ data }) {
      got.push(data);
      throw new Error('mine');
    } }));
    const others = [];
    channel.add(new Subscription(channel, { onPublication: ({ data }) => others.push(data) }));
    publish(1);
    publish(2);
    assert.deepEqual([got, others], [[1, 2], [1, 2]]);
    assert.throws(() => later.mock.calls[0].arguments[0](), /mine/);
  });
});
