/**
 * Whatever becomes of its connections, a client hands over each event once and in order, says where some are missing, and
 * ends on the newest state: in many random lives, each the same for its seed.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildCursor } from '../../client/js/cursor.js';
import { Channel } from '../../client/js/channel.js';
import { Client } from '../../client/js/client.js';
import { FulmarError } from '../../client/js/errors.js';
import { Subscription } from '../../client/js/subscription.js';
import { Line, Memory, clock, settled } from './memory.mjs';
import { dice } from './sender.mjs';

/** What was handed over of a channel of events, checked as it comes. */
class Witness {
  count = 0;
  /** @type {{epoch: string, offset: number} | null} */
  #at = null;

  publication = ({ epoch, offset }) => {
    this.count++;
    const at = this.#at;
    if (at) {
      assert.equal(epoch, at.epoch, 'another epoch, and nobody said so');
      assert.equal(offset, at.offset + 1, offset > at.offset ? `lost from ${at.offset} to ${offset}` : `${offset} twice`);
    }
    this.#at = { epoch, offset };
  };

  gap = ({ epoch, offset }) => {
    const at = this.#at;
    if (at?.epoch === epoch) assert.ok(offset > at.offset, `a gap up to ${offset}, and it has come to ${at.offset}`);
    this.#at = { epoch, offset };
  };

  finish({ epoch, head }, log) {
    if (this.#at) assert.deepEqual(this.#at, { epoch, offset: head });
    else assert.equal(log, 0);
  }
}

async function life(context, seed) {
  const time = clock(context);
  const { random, below, chance } = dice(seed);
  context.mock.method(Math, 'random', random);
  const server = new Memory();
  server.keep = 1 + below(60);
  let pauses = 0;
  let blocked = true, down = false, calm = false;
  const client = new Client(`http://life${seed}`, ['webtransport', 'websocket'], async (transport) => {
    if (!calm && (down || (blocked && transport === 'webtransport'))) throw new FulmarError('unreachable', 'Not now.');
    const line = server.accept(transport);
    if (!calm) line.held = [];
    return line;
  });
  // The connection that is taken over from may go on for a while, and what is on its way over it arrives.
  server.intercept = (line, { type, ref, secret }) => {
    if (type === 'unsubscribe') pauses++;
    if (type !== 'attach' || chance(0.5)) return false;
    line.session = secret;
    line.say({ type: 'attached', ref, session: 's', resumed: true });
    return true;
  };
  client.run();

  const events = new Witness();
  client.subscribe('event:a', { onPublication: events.publication, onGap: events.gap });
  // An iterator of its own pace: gaps are told at once, what precedes them may still wait.
  const paced = [];
  const gaps = new Set();
  const iterator = client.subscribe('event:paced', { onGap: ({ epoch, offset }) => gaps.add(`${epoch} ${offset}`) })[Symbol.asyncIterator]();
  let wanted = 0;
  const consume = async () => {
    for (;;) {
      while (!wanted) await new Promise((resolve) => (consume.more = resolve));
      wanted--;
      const { value, done } = await iterator.next();
      if (done) return;
      const before = paced.at(-1);
      const { epoch, offset } = value;
      if (before && (before.epoch !== epoch || before.offset + 1 !== offset)) {
        assert.ok(before.epoch !== epoch || offset > before.offset, `paced: ${offset} after ${before.offset}`);
        assert.ok(gaps.has(`${epoch} ${offset - 1}`), `paced: lost from ${before.offset} to ${offset}`);
      }
      paced.push({ epoch, offset });
    }
  };
  const consuming = consume();
  const take = (count) => {
    wanted += count;
    consume.more?.();
  };

  // Values of state: a key goes forward only, but for what a reset tells to forget.
  const told = new Map();
  let wrong = null;
  client.subscribe('state:a', {
    onPublication({ key, epoch, offset }) {
      const before = told.get(key);
      if (before?.epoch === epoch && before.offset >= offset) wrong ??= `${key}: ${offset} after ${before.offset}`;
      told.set(key, { epoch, offset });
    },
    onReset: () => told.clear(),
  });
  const state = client.state('state:a');
  const newest = new Map();
  state.onChange(({ key, value }) => {
    if (value === undefined) return;
    assert.ok(value > (newest.get(key) ?? 0), `${key} went from ${newest.get(key)} to ${value}`);
    newest.set(key, value);
  });

  let number = 0;
  const publish = () => {
    const at = below(10);
    if (at < 4) server.publish('event:a', ++number);
    else if (at < 6) for (let i = below(300); i >= 0; i--) server.publish('event:paced', ++number);
    else server.publish('state:a', ++number, `k${below(12)}`, chance(0.3) ? { removed: true, data: undefined } : {});
  };
  // A history is lost when the server is, or the channel has no readers: no two connections go through it together.
  const renew = (name) => {
    for (const line of server.lines.slice(0, chance(0.5) ? -1 : undefined)) line.end({ code: 1006, reason: 'restart' });
    server.renew(name);
  };
  const steps = [
    [40, publish],
    [25, () => server.lines.at(-1)?.arrive(1 + below(chance(0.5) ? 10 : 400))],
    [15, () => server.lines.at(below(server.lines.length))?.arrive(1 + below(80))],
    [10, () => time.pass(50 + below(1500), 250)],
    [10, () => take(1 + below(500))],
    [5, () => { blocked = !blocked; }],
    [8, () => time.pass(6000, 1000)],
    [2, () => { down = !down; }],
    [5, () => server.lines.at(-1)?.end({ code: chance(0.5) ? 1006 : 4501, reason: '' })],
    [1, () => renew('event:a')],
    [3, () => renew('state:a')],
    [1, () => renew('event:paced')],
    [2, () => server.trim(chance(0.5) ? 'event:a' : 'event:paced', below(3))],
    [1, () => client.wake()],
    [1, () => client.networkChanged()],
    [1, () => { client.suspend(); if (chance(0.7)) client.wake(); }],
  ];
  const weights = steps.reduce((sum, [weight]) => sum + weight, 0);
  for (let i = 0; i < 200; i++) {
    let at = below(weights);
    const [, step] = steps.find(([weight]) => (at -= weight) < 0);
    await step();
    if (chance(0.5)) await settled(1);
  }

  calm = true;
  client.wake();
  take(1e6);
  for (let i = 0; i < 8; i++) {
    for (const line of server.lines) line.arrive();
    for (const line of server.lines) if (line.open) line.held = null;
    await time.pass(10_000, 2000);
  }
  for (const name of ['event:a', 'event:paced']) server.publish(name, 'last');
  await settled();
  events.finish(server.channel('event:a'), events.count);
  const { epoch, head } = server.channel('event:paced');
  assert.deepEqual(paced.at(-1), { epoch, offset: head });
  const held = [...server.channel('state:a').keys].filter(([, { removed }]) => !removed).map(([key, { data }]) => [key, data]);
  assert.deepEqual([...state].sort(), held.sort());
  assert.ok(state.synced);
  assert.equal(wrong, null);
  const { gaps: said, reconnects, moves } = client.stats();
  client.close();
  await consuming;
  return { given: events.count + paced.length, gaps: said, reconnects, moves, pauses };
}

/** A channel and two connections of it, the second opened behind the first and asked from where that was. */
function overlapping() {
  const told = [];
  const note = ({ type, epoch, offset }) => told.push(`${type === 'publication' ? '' : `${type} `}${epoch} ${offset}`);
  const channel = new Channel('event:a', { pause() {}, resume() {}, drop() {}, gap: note }, null);
  channel.add(new Subscription(channel, { onPublication: note }));
  const lines = [new Line('websocket'), new Line('webtransport')];
  for (const line of lines) {
    line.receiver.take({ type: 'subscribed', channel: 'event:a', epoch: 'e', offset: 0 });
    line.onmessage = (message) => channel.take(line, message);
  }
  const say = (line) => (type, offset, epoch = 'e') => lines[line].say({ type, channel: 'event:a', epoch, offset, key: '', data: 1 });
  return { channel, lines, told, first: say(0), second: say(1) };
}

test('what two connections bring is told once, and the later one counts from its first word on', () => {
  const { told, first, second, channel } = overlapping();
  for (const offset of [1, 2, 3]) first('publication', offset);
  for (const offset of [2, 3, 4]) second('publication', offset);
  first('publication', 4);
  first('publication', 5);
  assert.equal(channel.entry.offset, 4);
  second('publication', 5);
  assert.deepEqual(told, ['e 1', 'e 2', 'e 3', 'e 4', 'e 5']);
});

test('a gap that the one before has bridged is none', () => {
  const { told, first, second } = overlapping();
  for (const offset of [1, 2, 3]) first('publication', offset);
  second('gap', 2);
  for (const offset of [3, 4]) second('publication', offset);
  second('gap', 7);
  second('publication', 8);
  assert.deepEqual(told, ['e 1', 'e 2', 'e 3', 'e 4', 'gap e 7', 'e 8']);
});

test('an older history behind a newer one is void, up to the gap that both tell', () => {
  const { told, first, second } = overlapping();
  first('publication', 1);
  first('gap', 0, 'f');
  first('publication', 1, 'f');
  for (const offset of [1, 2]) second('publication', offset);
  second('gap', 0, 'f');
  for (const offset of [1, 2]) second('publication', offset, 'f');
  assert.deepEqual(told, ['e 1', 'gap f 0', 'f 1', 'f 2']);
});

test('a connection that was replaced has no say when the one that replaced it is gone', () => {
  const { told, first, second, channel, lines } = overlapping();
  for (const offset of [1, 2]) second('publication', offset);
  channel.lose(lines[1]);
  first('publication', 1);
  assert.deepEqual(told, ['e 1', 'e 2']);
  assert.equal(channel.entry.offset, 2);
});

test('a channel that is paused takes nothing, and keeps its place', () => {
  const { told, first, second, channel, lines } = overlapping();
  first('publication', 1);
  channel.paused = true;
  channel.lose(lines[0]);
  first('publication', 2);
  second('publication', 1);
  assert.deepEqual(channel.from, { after: buildCursor([{ channel: 'event:a', epoch: 'e', offset: 1 }]) });
  assert.deepEqual(told, ['e 1']);
});

const SEEDS = Number(process.env.FULMAR_LIVES ?? 150);
const FIRST = Number(process.env.FULMAR_SEED ?? 1);

test(`nothing twice, nothing lost, over ${SEEDS} lives`, async (context) => {
  const sum = { given: 0, gaps: 0, reconnects: 0, moves: 0, pauses: 0 };
  for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
    await context.test(`seed ${seed}`, async (inner) => {
      const counts = await life(inner, seed);
      for (const name of Object.keys(sum)) sum[name] += counts[name];
    });
  }
  context.diagnostic(JSON.stringify(sum));
  if (SEEDS >= 100) for (const [name, count] of Object.entries(sum)) assert.ok(count > SEEDS / 8, `${name}: ${count}`);
});
