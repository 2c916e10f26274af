import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ACK_DELAY_MS, ACK_FRAMES, ACK_PAUSE_MS, ASSEMBLY_BYTES, REMEMBERED_KEYS } from '../../client/js/limits.js';
import { createAcks } from '../../client/js/acks.js';
import { splitDatagram } from '../../client/js/framing.js';
import { createReceiver } from '../../client/js/receiver.js';
import { StateView } from '../../client/js/state.js';
import { PART } from '../../client/js/values.js';
import { decodeServer } from '../../client/js/wire.js';
import { Sender, dice } from './sender.mjs';

const channel = 'state:a';
const ALIAS = 1;

/** A receiver, and what it gave to the application. */
function receiving() {
  const got = [];
  const receiver = createReceiver((message) => got.push(message), { late: 0, lost: 0, repaired: 0 });
  const acks = createAcks(async () => {});
  const position = () => receiver.entry(channel)?.offset;
  return {
    receiver, acks, got,
    /** Whether the application is told of it. */
    hear(message) {
      const told = got.length;
      receiver.take(receiver.resolve({ alias: ALIAS, epoch: 'e', channel, ...message }));
      return got.length > told;
    },
    /** Whether a datagram was taken in, the position where it has moved, and what came: key and offset. */
    take(number, ...entries) {
      got.length = 0;
      const before = position();
      const values = { type: 'values', number, entries: entries.map((entry) => ({ alias: ALIAS, low: 0, ...entry })) };
      const isTaken = acks.take(number, () => receiver.apply(values, true));
      return [isTaken, ...(position() === before ? [] : [position()]), ...got.map(({ key, offset }) => `${key}@${offset}`)];
    },
    synced(offset = 0) {
      this.hear({ type: 'subscribed', offset: 0 });
      this.hear({ type: 'reset', offset });
      this.hear({ type: 'synced', offset });
      return this;
    },
  };
}
const value = (key, offset, low = 0) => ({ key, offset, low, time: 1, removed: false, data: `${key}${offset}` });
const removal = (key, offset, low = 0) => ({ key, offset, low, time: 1, removed: true });
const part = (key, offset, index, text, length = text.length) => (
  { key, offset, time: 1, removed: false, part: { kind: 1, index, length, bytes: new TextEncoder().encode(text.slice(index * PART, (index + 1) * PART)) } });

/** Acknowledgements, and time that passes when it is told to. */
function acknowledging(context) {
  let now = 0;
  context.mock.method(performance, 'now', () => now);
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const sent = [];
  const acks = createAcks(async ({ newest, bitmap }) => { sent.push({ at: now, newest, bitmap }); });
  return {
    acks, sent,
    take(...numbers) {
      for (const number of numbers) acks.take(number, () => true);
      acks.check();
    },
    /** What was acknowledged by then, and has not been asked for. */
    async until(then) {
      while (now < then) {
        now++;
        context.mock.timers.tick(1);
        await Promise.resolve();
        await Promise.resolve();
        await Promise.resolve();
      }
      return sent.splice(0).map(({ at, newest, bitmap }) => [at, newest, bitmap]);
    },
  };
}

describe('Acknowledgements', () => {
  for (const [numbers, newest, bitmap] of [
    [[1], 1, 0n], [[1, 2, 3], 3, 0b11n], [[3, 1, 2], 3, 0b11n], [[1, 4], 4, 0b100n], [[4, 1], 4, 0b100n], [[7], 7, 0n], [[7, 5], 7, 0b10n],
    [[1, 63], 63, 1n << 61n], [[1, 64], 64, 0n], [[64, 1], 64, 0n], [[64, 2], 64, 1n << 61n], [[1, 2, 64], 64, 1n << 61n],
    [[5, 5], 5, 0n], [[1, 2 ** 52], 2 ** 52, 0n], [[2 ** 52, 1], 2 ** 52, 0n],
    [Array.from({ length: 200 }, (_, i) => i + 1), 200, 2n ** 62n - 1n],
  ]) {
    test(`the bitmap names those before the newest, whatever their order: ${numbers.slice(0, 3)}`, async (context) => {
      const { take, until } = acknowledging(context);
      take(...numbers);
      assert.deepEqual((await until(100)).at(-1).slice(1), [newest, bitmap]);
    });
  }

  test('it is known which were taken, and what could not be is not', (context) => {
    const { acks, take } = acknowledging(context);
    take(3, 5, 66);
    for (const [number, known] of [[66, true], [67, false], [2 ** 52, false], [5, true], [4, false], [3, false], [65, false]]) {
      assert.equal(acks.has(number), known, `${number}`);
    }
    assert.equal(acks.take(67, () => false), false);
    assert.equal(acks.has(67), false);
    assert.equal(acks.take(66, () => assert.fail('it was taken in')), true);
  });

  test('one waits for others while they come', async (context) => {
    const { take, until } = acknowledging(context);
    assert.deepEqual(await until(100), []);
    take(1);
    assert.deepEqual(await until(105), []);
    take(2);
    assert.deepEqual(await until(2000), [[105 + ACK_DELAY_MS, 2, 1n]]);
  });

  test('four do not wait for more, unless they came at once', async (context) => {
    const { sent, take, until } = acknowledging(context);
    for (const [n, now] of [100, 117, 134].entries()) {
      assert.deepEqual(await until(now), []);
      take(n + 1);
    }
    assert.deepEqual(await until(151), []);
    take(ACK_FRAMES);
    assert.deepEqual(sent, [{ at: 151, newest: 4, bitmap: 0b111n }]);
    await until(200);
    for (let number = 5; number < 100; number++) take(number);
    assert.deepEqual(await until(300), [[200 + ACK_DELAY_MS, 99, 2n ** 62n - 1n]]);
  });

  test('where a number was skipped it is due at once, but not right after the last', async (context) => {
    const { acks, sent, take, until } = acknowledging(context);
    await until(100);
    take(2);
    assert.deepEqual(sent, [{ at: 100, newest: 2, bitmap: 0n }]);
    await until(101);
    take(4);
    assert.deepEqual(await until(200), [[100 + ACK_PAUSE_MS, 4, 0b10n]]);
    take(3);
    assert.deepEqual(await until(300), [[200 + ACK_DELAY_MS, 4, 0b11n]], 'what fills a hole is not as urgent');
  });

  test('what is sent anyhow takes it along', async (context) => {
    const { acks, sent, take, until } = acknowledging(context);
    acks.hurry();
    assert.deepEqual(await until(100), []);
    take(1);
    await until(101);
    acks.hurry();
    assert.deepEqual(sent, [{ at: 101, newest: 1, bitmap: 0n }]);
  });

  test('what comes again is acknowledged again', async (context) => {
    const { take, until } = acknowledging(context);
    take(1, 2);
    await until(100);
    take(1);
    assert.deepEqual(await until(300), [[100 + ACK_DELAY_MS, 2, 1n]]);
  });
});

describe('Receiver', () => {
  test('the newest of each key is given once', () => {
    const it = receiving().synced();
    assert.deepEqual(it.take(1, value('a', 3), value('b', 2)), [true, 'a@3', 'b@2']);
    assert.deepEqual(it.take(2, value('a', 1), value('b', 2), value('b', 4)), [true, 'b@4']);
    assert.deepEqual(it.take(2, value('c', 9)), [true], 'the number was there already');
    assert.ok(it.acks.has(1) && it.acks.has(2));
    assert.equal(it.receiver.held().keys, 2);
  });

  test('a removed key is not brought back, below the low-water offset neither', () => {
    const it = receiving().synced();
    assert.deepEqual(it.take(2, removal('a', 5)), [true, 'a@5']);
    assert.deepEqual(it.take(1, value('a', 4)), [true]);
    assert.deepEqual(it.take(3, { low: 5 }), [true, 5]);
    assert.equal(it.receiver.held().keys, 0);
    assert.deepEqual(it.take(4, value('a', 4), value('b', 5)), [true], 'known or replaced');
  });

  test('low-water offsets do not fall, and mean nothing before `synced`', () => {
    const it = receiving();
    it.hear({ type: 'subscribed', offset: 0 });
    assert.deepEqual(it.take(1, value('a', 12, 9)), [true, 'a@12']);
    it.hear({ type: 'reset', offset: 6 });
    assert.deepEqual(it.take(2, value('b', 8, 7)), [true, 'b@8']);
    it.hear({ type: 'synced', offset: 6 });
    assert.deepEqual(it.take(3, value('c', 9, 8)), [true, 8, 'c@9']);
    assert.deepEqual(it.take(4, { low: 7 }), [true]);
    it.hear({ type: 'reset', offset: 20 });
    assert.deepEqual(it.take(5, { low: 30 }), [true], 'the snapshot is not complete');
  });

  test('the position goes on where a signal was not recovered, of which no gap tells', () => {
    const it = receiving();
    it.receiver.begin(channel, { hash: 'h', epoch: 'e', offset: 5 });
    it.hear({ type: 'subscribed', offset: 5, recovered: false });
    assert.equal(it.receiver.entry(channel).offset, 5, 'nor of a gap until it comes');
    assert.equal(it.hear({ type: 'publication', key: '', offset: 9 }), true);
    assert.equal(it.receiver.entry(channel).offset, 9);
  });

  test('a publication of another epoch moves no position', () => {
    const it = receiving();
    it.hear({ type: 'subscribed', offset: 3 });
    it.hear({ type: 'publication', alias: 2, epoch: 'before', key: '', offset: 100 });
    assert.equal(it.receiver.entry(channel).offset, 3);
  });

  test('what the stream brings later than a datagram is not given on', () => {
    const it = receiving();
    it.hear({ type: 'subscribed', offset: 3 });
    assert.deepEqual(it.take(1, value('a', 9), value('old', 3)), [true, 'a@9']);
    assert.equal(it.hear({ type: 'publication', key: 'a', offset: 7 }), false);
    assert.equal(it.hear({ type: 'publication', key: 'b', offset: 8 }), true);
    assert.deepEqual(it.take(2, value('b', 6)), [true], 'the stream is in order, so it was replaced');
    assert.equal(it.hear({ type: 'synced', offset: 9 }), true);
    assert.equal(it.receiver.held().keys, 0);
  });

  test('a reset forgets what lies below it and no more', () => {
    const it = receiving().synced();
    it.take(1, value('a', 9), value('b', 4));
    it.hear({ type: 'reset', offset: 5 });
    assert.equal(it.hear({ type: 'publication', key: 'b', offset: 4 }), true);
    assert.equal(it.hear({ type: 'publication', key: 'a', offset: 4 }), false);
    assert.deepEqual(it.receiver.held(), { keys: 1, bytes: 0 });
    it.hear({ type: 'reset', alias: 2, epoch: 'f', offset: 1 });
    assert.deepEqual(it.take(2, value('a', 50), { ...value('a', 2), alias: 2 }), [true, 'a@2'], 'alias 1 is of the old epoch');
  });

  test('a frame of a channel that is not there yet is worth another try, and not acknowledged before', () => {
    const it = receiving().synced();
    const early = [value('a', 1), { ...value('b', 2), alias: 7 }];
    assert.deepEqual(it.take(1, ...early), [false, 'a@1']);
    assert.equal(it.acks.has(1), false);
    it.hear({ type: 'subscribed', alias: 7, channel: 'state:b', offset: 0 });
    assert.deepEqual(it.take(1, ...early), [true, 'b@2']);
    it.receiver.forget('state:b');
    assert.deepEqual(it.take(2, { ...value('b', 3), alias: 7 }), [false], 'it may be subscribed again');
    assert.equal(it.receiver.held().keys, 1);
  });

  describe('parts', () => {
    const text = 'x'.repeat(999) + 'ü' + 'y'.repeat(1500);

    test('a payload is whole when all of its parts are, in whichever order', () => {
      const it = receiving().synced();
      const length = new TextEncoder().encode(text).length;
      const bytes = new TextEncoder().encode(text);
      const piece = (index) => ({ key: 'a', offset: 5, time: 1, removed: false, id: 'i',
        part: { kind: 1, index, length, bytes: bytes.slice(index * PART, (index + 1) * PART) } });
      assert.deepEqual(it.take(1, piece(2)), [true]);
      assert.deepEqual(it.take(2, piece(0), piece(2)), [true]);
      assert.deepEqual(it.receiver.held(), { keys: 0, bytes: length });
      assert.deepEqual(it.take(3, piece(1)), [true, 'a@5']);
      assert.deepEqual(it.got[0], { type: 'publication', channel, epoch: 'e', offset: 5, time: 1, key: 'a', id: 'i', removed: false, data: text });
      assert.deepEqual(it.receiver.held(), { keys: 1, bytes: 0 });
      assert.deepEqual(it.take(4, piece(1)), [true], 'it begins nothing anew');
      assert.equal(it.receiver.held().bytes, 0);
    });

    test('one part can be all', () => {
      assert.deepEqual(receiving().synced().take(1, part('a', 1, 0, 'short')), [true, 'a@1']);
    });

    test('what is newer makes them void: a part, a value, the low-water offset, a reset', () => {
      const large = 'z'.repeat(3000);
      const it = receiving().synced();
      it.take(1, part('a', 5, 0, large));
      assert.deepEqual(it.take(2, part('a', 6, 0, large), part('a', 5, 1, large)), [true]);
      assert.equal(it.receiver.held().bytes, 3000);
      assert.deepEqual(it.take(3, part('a', 5, 2, large), part('a', 6, 1, large), part('a', 6, 2, large)), [true, 'a@6']);
      it.take(4, part('a', 7, 0, large));
      assert.deepEqual(it.take(5, value('a', 8), part('a', 7, 1, large)), [true, 'a@8']);
      assert.equal(it.receiver.held().bytes, 0);
      it.take(6, part('a', 9, 0, large));
      assert.deepEqual(it.take(7, { low: 9 }), [true, 9]);
      assert.equal(it.receiver.held().bytes, 0);
      it.take(8, part('a', 12, 0, large), part('b', 15, 0, large));
      it.hear({ type: 'reset', offset: 13 });
      assert.equal(it.receiver.held().bytes, 3000);
      it.receiver.forget(channel);
      assert.equal(it.receiver.held().bytes, 0);
    });

    test('where there is no room for one, its frame is not acknowledged, but those under way go on', () => {
      const large = 'z'.repeat(16_000);
      const it = receiving().synced();
      const fit = Math.floor(ASSEMBLY_BYTES / 16_000);
      for (let n = 1; n <= fit; n++) assert.deepEqual(it.take(n, part(`k${n}`, n, 0, large)), [true]);
      const refused = [part('more', 50, 0, large), part('k1', 1, 1, large), value('a', 60)];
      assert.deepEqual(it.take(99, ...refused), [false, 'a@60'], 'what has room is taken');
      assert.ok(it.receiver.held().bytes <= ASSEMBLY_BYTES);
      assert.equal(it.acks.has(99), false);
      const rest = Array.from({ length: 14 }, (_, i) => part('k1', 1, i + 2, large));
      assert.deepEqual(it.take(100, ...rest), [true, 'k1@1']);
      assert.deepEqual(it.take(101, ...refused), [true]);
      assert.deepEqual(it.take(102, part('k2', 70, 0, large)), [true], 'in place of the older one');
    });

    test('parts that disagree about their payload, and one that is not of its kind, are malformed', () => {
      const it = receiving().synced();
      it.take(1, part('a', 5, 0, 'z'.repeat(3000)));
      assert.throws(() => it.take(2, part('a', 5, 1, 'z'.repeat(2500))), { code: 'malformed' });
      const json = { ...part('b', 6, 0, '{'), part: { ...part('b', 6, 0, '{').part, kind: 2 } };
      assert.throws(() => it.take(3, json), { code: 'malformed' });
      assert.equal(it.acks.has(2) || it.acks.has(3), false);
    });
  });

  test('memory is let go as the low-water offset rises, and it has a bound', () => {
    const it = receiving().synced();
    for (let n = 1; n <= 5000; n++) it.take(n, value(`k${n}`, n, Math.max(0, n - 10)));
    assert.equal(it.receiver.held().keys, 10);
    assert.throws(() => {
      for (let n = 5001; ; n++) it.take(n, value(`k${n}`, n, 4990));
    }, { code: 'unreachable' });
    assert.equal(it.receiver.held().keys, REMEMBERED_KEYS + 1);
  });
});

/**
 * The receiver against a model of a sender over a bad network. What must hold at each moment: nothing goes backwards, a
 * position is true, what is acknowledged was taken in, acknowledgements keep their times. And in the end both hold the
 * same, and the receiver remembers nothing.
 */
async function converge(seed, context) {
  const random = dice(seed);
  const sender = new Sender(random);
  sender.loss = [0, 0.05, 0.3, 0.6][seed % 4];
  const view = new StateView();
  const newest = new Map();
  const positions = new Map();
  const epochs = new Map();
  const resumed = new Set();
  const names = ['state:a', 'state:b', 'state:large'];
  /** The aliases that the stream has told. */
  const told = new Set();
  let early = [], ackAt = -Infinity, unacked = Infinity, refused = 0;
  context.mock.method(performance, 'now', () => sender.now);
  // It is asked at each moment: its timer is not needed.
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const acks = createAcks(async (ack) => {
    assert.ok(sender.now - ackAt >= ACK_PAUSE_MS, 'acknowledgements come too fast');
    ackAt = sender.now;
    unacked = Infinity;
    if (!random.chance(sender.loss)) sender.acknowledged(ack);
  });

  /** What the positions say, is true. */
  const settle = () => {
    for (const name of names) {
      const { epoch, offset } = receiver.entry(name) ?? {};
      const before = positions.get(name);
      if (offset === before?.offset && epoch === before?.epoch) continue;
      positions.set(name, { epoch, offset });
      if (offset === undefined) continue;
      assert.ok(epoch !== before?.epoch || offset > before.offset, `${name} fell back to ${offset}`);
      const log = sender.channels.get(name);
      if (log.epoch !== epoch) continue;
      for (const [key, value] of log.keys) {
        const has = newest.get(`${name} ${key}`);
        // A snapshot does not bring what was removed before it, and what is asked for anew goes on from a position that was true.
        if (value.offset > offset || (value.data === null && has === undefined)) continue;
        assert.equal(has, value.offset, `${name} ${key} at ${offset}`);
      }
    }
  };

  const apply = (message) => {
    const { type, channel: name, epoch, offset } = message;
    if (type === 'publication') {
      const at = `${name} ${message.key}`;
      const back = offset < newest.get(at);
      // What a datagram of the subscription before still brings, the application has to drop.
      assert.ok(!back || resumed.has(name), `${at} went back from ${newest.get(at)} to ${offset}`);
      if (!back) newest.set(at, offset);
      view.apply(message);
    } else if (type === 'reset') {
      for (const [at, was] of newest) {
        if (at.startsWith(`${name} `) && (epochs.get(name) !== epoch || was <= offset)) newest.delete(at);
      }
      resumed.delete(name);
      epochs.set(name, epoch);
      view.apply(message);
    } else if (type === 'unsubscribed') {
      sender.resume(name, receiver.entry(name).offset);
      receiver.forget(name);
      resumed.add(name);
    } else if (type === 'subscribed') epochs.set(name, epoch);
    else view.apply(message);
  };
  const receiver = createReceiver(apply, { late: 0, lost: 0, repaired: 0 });

  const datagram = ({ bytes, number }) => {
    for (const frame of splitDatagram(bytes)) {
      const values = decodeServer(frame);
      const isTaken = acks.take(number, () => receiver.apply(values, true));
      if (!isTaken) {
        early.push({ bytes, number });
        if (values.entries.every(({ alias }) => told.has(alias))) refused++;
      }
      // One that is older than the bitmap reaches cannot be acknowledged any more.
      else if (acks.has(number)) unacked = Math.min(unacked, sender.now);
      assert.ok(isTaken || !acks.has(number));
      settle();
    }
    early = early.slice(-64);
    assert.ok(receiver.held().bytes <= ASSEMBLY_BYTES);
  };

  const step = async () => {
    sender.now++;
    const { stream, datagrams } = sender.arrivals();
    for (const message of stream) {
      if (message.type === 'values') receiver.apply(message);
      else if (message.type === 'unsubscribed') apply(message);
      else {
        const resolved = receiver.resolve(message);
        told.add(message.alias);
        receiver.take(resolved);
        if (resolved.type === 'subscribed') apply(resolved);
      }
      settle();
      const again = early;
      early = [];
      again.forEach(datagram);
    }
    datagrams.forEach(datagram);
    assert.ok(sender.now - unacked <= ACK_DELAY_MS * (ACK_FRAMES - 1), 'an acknowledgement is late');
    acks.check();
    await Promise.resolve().then(() => {}).then(() => {});
  };

  const change = () => {
    const name = names[random.below(names.length)];
    if (name === 'state:large') {
      const key = `k${random.below(24)}`;
      sender.publish(name, key, `${key} ${sender.now} ${'x'.repeat(random.below(15_900))}`);
    } else sender.publish(name, `k${random.below(9)}`, random.chance(0.2) ? null : `${sender.now} ${random.random()}`);
  };

  for (const name of names) sender.subscribe(name);
  while (sender.now < 2500) {
    if (random.chance(0.4)) change();
    if (seed % 3 === 0 && sender.now % 500 === 0) {
      for (let n = 0; n < 30; n++) sender.publish('state:large', `k${n}`, `k${n} ${'y'.repeat(15_000)}`);
    }
    const name = names[random.below(names.length)];
    if (random.chance(0.002)) sender.reset(name);
    else if (random.chance(0.001)) sender.renew(name);
    else if (random.chance(0.002) && !sender.stream.length) sender.unsubscribe(name);
    sender.flush(3);
    await step();
  }
  for (const end = sender.now + 10_000; ; ) {
    sender.flush(12);
    await step();
    const done = names.every((name) => sender.low(sender.channels.get(name)) === sender.channels.get(name).head);
    if (done && receiver.held().keys === 0 && receiver.held().bytes === 0) break;
    assert.ok(sender.now < end, `not at rest: ${JSON.stringify(receiver.held)}`);
  }
  for (const name of names) {
    const { keys } = sender.channels.get(name);
    const wanted = [...keys].filter(([, { data }]) => data !== null).map(([key, { data }]) => [key, data]);
    const held = [...view.entries(name)].map(([key, { data }]) => [key, data]);
    assert.deepEqual(Object.fromEntries(held), Object.fromEntries(wanted), name);
  }
  return refused;
}

test('over any loss, reordering and doubling both sides come to hold the same', async (context) => {
  const seeds = process.env.SEED ? [Number(process.env.SEED)] : Array.from({ length: 16 }, (_, seed) => seed);
  let refused = 0;
  for (const seed of seeds) await context.test(`SEED=${seed}`, async (inner) => { refused += await converge(seed, inner); });
  if (seeds.length > 1) assert.ok(refused > 0, 'room for parts was never short');
});
