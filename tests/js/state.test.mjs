import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { buildCursor, fnv1a64 } from '../../client/js/cursor.js';
import { MAX_AHEAD, MAX_REMOVED } from '../../client/js/limits.js';
import { createReceiver } from '../../client/js/receiver.js';
import { StateView, keepAhead, takeAhead } from '../../client/js/state.js';

const channel = 'state:room';
const put = (key, offset, data, epoch = 'e1') => (
  { type: 'publication', channel, epoch, offset, time: 1000 + offset, key, removed: false, data });
const remove = (key, offset, epoch = 'e1') => (
  { type: 'publication', channel, epoch, offset, time: 1000 + offset, key, removed: true });
const control = (type, offset, epoch = 'e1') => ({ type, channel, epoch, offset });

function view(...messages) {
  const made = new StateView();
  for (const message of messages) made.apply(message);
  return made;
}
const held = (made) => Object.fromEntries([...made.entries(channel)].map(([key, { data }]) => [key, data]));

describe('StateView', () => {
  test('the newest of each key is held', () => {
    const made = view(control('reset', 0), put('a', 1, 1), put('b', 2, 2), put('a', 3, 3), control('synced', 3));
    assert.deepEqual(held(made), { a: 3, b: 2 });
    assert.equal(made.synced(channel), true);
    assert.equal(made.newest, 1003);
    assert.equal(made.get(channel, 'a'), 3);
    assert.equal(made.get(channel, 'none'), undefined);
    assert.equal(made.get('none'), undefined);
  });

  test('a value that was overtaken is dropped', () => {
    const made = view(put('a', 5, 'new'));
    assert.equal(made.apply(put('a', 4, 'old')), false);
    assert.equal(made.apply(put('a', 5, 'again')), false);
    assert.deepEqual(held(made), { a: 'new' });
  });

  test('a removed key is not brought back by what it overtook', () => {
    const made = view(put('a', 1, 1), remove('a', 3), put('a', 2, 2));
    assert.deepEqual(held(made), {});
    made.apply(put('a', 4, 4));
    assert.deepEqual(held(made), { a: 4 });
  });

  test('what a reset forgets is shown until the snapshot has replaced it or ends without it', () => {
    const made = view(put('a', 1, 'old'), put('b', 2, 'old'), put('c', 3, 'old'), control('synced', 3), control('reset', 5));
    assert.equal(made.synced(channel), false);
    assert.deepEqual(held(made), { a: 'old', b: 'old', c: 'old' });
    made.apply(put('a', 4, 'new'));
    assert.equal(made.apply(put('b', 2, 'old')), false, 'the same as before, but it stays');
    assert.deepEqual(held(made), { a: 'new', b: 'old', c: 'old' });
    assert.equal(made.apply(control('synced', 5)), true);
    assert.deepEqual(held(made), { a: 'new', b: 'old' });
    assert.equal(made.synced(channel), true);
    assert.equal(made.apply(control('synced', 5)), false);
  });

  test('a snapshot that begins anew forgets what the one before had brought, too', () => {
    const made = view(put('a', 1, 1), control('reset', 5), put('b', 2, 2), put('c', 6, 6), control('reset', 5), put('a', 1, 1));
    assert.deepEqual(held(made), { a: 1, b: 2, c: 6 });
    made.apply(control('synced', 5));
    assert.deepEqual(held(made), { a: 1, c: 6 }, 'c overtook both');
  });

  test('a reset spares the keys that overtook it', () => {
    const made = view(put('a', 1, 1), put('b', 7, 7), remove('c', 8), control('reset', 5));
    assert.equal(made.apply(put('c', 6, 6)), false, 'the removal overtook the reset too');
    made.apply(control('synced', 5));
    assert.deepEqual(held(made), { b: 7 });
  });

  test('a key that is removed while a snapshot is read is gone at once', () => {
    const made = view(put('a', 1, 1), put('b', 2, 2), control('reset', 5), remove('a', 6));
    assert.deepEqual(held(made), { b: 2 });
    made.apply(control('synced', 5));
    assert.deepEqual(held(made), {});
    assert.equal(made.apply(put('a', 3, 3)), false);
  });

  test('a removal from before a reset is forgotten', () => {
    const made = view(put('a', 1, 1), remove('a', 4), control('reset', 5), put('a', 3, 3), control('synced', 5));
    assert.deepEqual(held(made), { a: 3 });
  });

  test('any value of a new epoch replaces one of the old, and stragglers of the old are dropped', () => {
    const made = view(put('a', 9, 'old'), put('b', 8, 'old'), control('reset', 1, 'e2'));
    assert.equal(made.apply(put('a', 10, 'straggler')), false);
    assert.deepEqual(held(made), { a: 'old', b: 'old' });
    assert.equal(made.apply(put('a', 1, 'new', 'e2')), true, 'its offset is of another count');
    assert.deepEqual(held(made), { a: 'new', b: 'old' });
    made.apply(control('synced', 1, 'e2'));
    assert.deepEqual(held(made), { a: 'new' });
    assert.equal(made.apply(put('b', 10, 'straggler')), false);
  });

  test('what overtakes the reset of a new epoch is kept for it, and what lies below that is not', () => {
    const told = [];
    const made = view(put('a', 9, 'old'), control('synced', 9));
    for (const message of [put('a', 3, 'new', 'e2'), put('b', 2, 'in the snapshot', 'e2'), control('reset', 2, 'e2'), put('c', 1, 'c', 'e2')]) {
      made.apply(message, (key) => told.push(key));
    }
    made.apply(control('synced', 2, 'e2'));
    assert.deepEqual(held(made), { a: 'new', c: 'c' });
    assert.deepEqual(told, ['a', 'c']);
  });

  test('of what is told of another epoch no more is kept than is worth it', () => {
    const made = view(put('a', 1, 1));
    for (let i = 1; i <= MAX_AHEAD + 10; i++) made.apply(put(`k${i}`, i, i, 'e2'));
    made.apply(control('reset', 0, 'e2'));
    made.apply(control('synced', 0, 'e2'));
    assert.equal(Object.keys(held(made)).length, MAX_AHEAD);
  });

  test('of what overtakes a reset the newest of each key is kept, and little of what has no keys', () => {
    const ahead = new Map();
    for (const [key, offset] of [['a', 3], ['b', 4], ['a', 5], ['b', 2]]) keepAhead(ahead, put(key, offset, offset));
    for (let offset = 6; offset < 100; offset++) keepAhead(ahead, put('', offset, 'an event'));
    assert.equal(ahead.size, 3);
    assert.deepEqual(takeAhead(ahead, put('', 4)).map(({ key, offset }) => [key, offset]), [['a', 5], ['', 99]]);
    assert.equal(ahead.size, 0);
  });

  test('what one epoch forgot does not come back with an older one', () => {
    const made = view(put('a', 9, 'old'), control('reset', 1, 'e2'), control('reset', 5, 'e1'), control('synced', 5));
    assert.deepEqual(held(made), {});
  });

  test('the memory of removals is bounded', () => {
    const made = new StateView();
    for (let i = 1; i <= 2000; i++) made.apply(remove(`k${i}`, i));
    assert.equal(made.apply(put('k1', 1, 'forgotten')), true);
    assert.equal(made.apply(put('k2000', 1999, 'remembered')), false);
  });

  test('an older value says nothing within a snapshot either', () => {
    const view = new StateView();
    for (const message of [control('reset', 0), put('k', 9, 'newest'), control('synced', 9), control('reset', 10), put('k', 7, 'older'),
      control('synced', 10)]) view.apply(message);
    assert.equal(view.get(channel, 'k'), undefined);
  });

  test('of removals the one that was told longest ago is forgotten first', () => {
    const view = new StateView();
    for (const type of ['reset', 'synced']) view.apply(control(type, 0));
    const removed = (key, offset) => ({ ...put(key, offset), removed: true });
    view.apply(removed('k', 1));
    for (let i = 2; i <= MAX_REMOVED; i++) view.apply(removed(`x${i}`, i));
    view.apply(removed('k', MAX_REMOVED + 2));
    view.apply(removed('y', MAX_REMOVED + 3));
    view.apply(put('k', MAX_REMOVED + 1, 'older'));
    assert.equal(view.get(channel, 'k'), undefined);
  });
});

describe('Positions', () => {
  const at = (offset, epoch = 'e1') => buildCursor([{ channel, epoch, offset }]);
  const reading = (...messages) => {
    const receiver = createReceiver(() => {});
    for (const message of messages) receiver.take(message);
    return receiver;
  };
  /** What a frame of values tells by its low-water offset. */
  const low = (receiver, offset, epoch = 'e1', datagram = true) => {
    receiver.resolve({ type: 'reset', alias: 1, channel, epoch, offset });
    return receiver.apply({ number: 1, entries: [{ alias: 1, low: offset }] }, datagram);
  };

  test('events move the position, a gap sets it', () => {
    const positions = reading();
    assert.equal(positions.cursor(), null);
    positions.take(control('subscribed', 4));
    assert.equal(positions.cursor(), at(4));
    positions.take(put('', 5, 'x'));
    assert.equal(positions.cursor(), at(5));
    positions.take(control('gap', 90, 'e2'));
    assert.equal(positions.cursor(), at(90, 'e2'));
  });

  test('a snapshot has no position before it is complete', () => {
    const positions = reading(control('subscribed', 0), control('reset', 0), put('a', 3, 1));
    assert.equal(positions.cursor(), null);
    positions.take(control('synced', 8));
    assert.equal(positions.cursor(), at(8));
    positions.take(put('a', 9, 2));
    assert.equal(positions.cursor(), at(9));
  });

  test('what comes in a datagram does not move it, what comes on the stream does', () => {
    const positions = reading(control('subscribed', 0), control('reset', 0), control('synced', 8));
    positions.take(put('a', 12, 1), true);
    assert.equal(positions.cursor(), at(8));
    positions.take(put('b', 11, 1));
    assert.equal(positions.cursor(), at(11));
  });

  test('low-water offsets move it on, never back, and not within a snapshot', () => {
    const positions = reading();
    assert.equal(low(positions, 9), false, 'the channel is not there');
    for (const message of [control('subscribed', 0), control('reset', 0)]) positions.take(message);
    low(positions, 9);
    assert.equal(positions.entry(channel), null);
    positions.take(control('synced', 8));
    assert.notEqual(positions.entry(channel), null);
    low(positions, 12);
    low(positions, 10);
    low(positions, 99, 'e0');
    assert.equal(positions.cursor(), at(12));
  });

  test('until it is answered, a subscription stands where it was asked to go on', () => {
    const positions = reading();
    const from = { hash: fnv1a64(channel), epoch: 'e1', offset: 5, base: 20 };
    positions.begin(channel, from);
    assert.equal(positions.cursor(), buildCursor([{ channel, epoch: 'e1', offset: 5, base: 20 }]));
    positions.take(control('subscribed', 5));
    assert.equal(positions.cursor(), null, 'it goes on within a snapshot');
    positions.take(control('synced', 21));
    assert.equal(positions.cursor(), at(21));
    positions.forget(channel);
    assert.equal(positions.cursor(), null);
  });

  test('where it is not covered, it stands there until the gap or the reset has come', () => {
    for (const [type, then] of [['gap', at(7, 'e2')], ['reset', null]]) {
      const positions = reading();
      positions.begin(channel, { hash: fnv1a64(channel), epoch: 'e1', offset: 5 });
      positions.take({ ...control('subscribed', 7, 'e2'), recovered: false });
      assert.equal(positions.cursor(), at(5));
      positions.take(control(type, 7, 'e2'));
      assert.equal(positions.cursor(), then);
    }
  });

  test('what comes of a subscription that is not answered yet is of one before it', () => {
    const told = [];
    const positions = createReceiver((message) => told.push(message));
    positions.begin(channel);
    for (const message of [put('', 5, 'x'), control('gap', 9)]) assert.equal(positions.take(message), false);
    assert.deepEqual([told, positions.cursor()], [[], null]);
  });
});
