/** State over a path that loses a quarter of the packets each way: it converges, and nothing goes backwards. */
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { open } from '../../../client/js/fulmar.js';
import { parseCursor } from '../../../client/js/cursor.js';
import { LossyPath } from '../lossy.mjs';
import { channelIn } from '../server.mjs';

const timeout = 20_000;
const LOOK_EVERY = 20;
const SHARE = 0.25;
const SEED = 20_251;
const ROUNDS = 40;
const KEYS = Array.from({ length: 20 }, (_, n) => `k${n}`);

/** In each round three keys or so are removed, some of them in the last. */
const contentOf = (round, n) => ((round + n) % 7 === 0 ? { removed: true } : { data: `${round} ${n} ${'x'.repeat(n * 20)}` });

/** Asks until `met` does not throw; what it threw last once it is too late. */
async function until(ask, met) {
  const end = performance.now() + timeout;
  for (;;) {
    const answer = await ask();
    try {
      return met(answer);
    } catch (error) {
      if (performance.now() > end) throw error;
    }
    await pause(LOOK_EVERY);
  }
}

/** What a peer reports of the publications that came, put together from the last ones that it keeps. */
class Seen {
  #last = null;
  #offsets = new Map();
  count = 0;

  /** Asserts that the offsets of each key grow. */
  add(kept) {
    const same = (one) => one.offset === this.#last.offset && one.epoch === this.#last.epoch;
    const from = this.#last ? kept.findIndex(same) + 1 : 0;
    assert.ok(from > 0 || !this.#last, 'more came than a peer keeps');
    for (const { key = '', offset } of kept.slice(from)) {
      const before = this.#offsets.get(key) ?? 0;
      assert.ok(offset > before, `${key} went from offset ${before} to ${offset}`);
      this.#offsets.set(key, offset);
      this.count++;
    }
    this.#last = kept.at(-1) ?? this.#last;
  }
}

async function converges({ server, peer, transport }) {
  const channel = channelIn('state');
  for (const key of KEYS) await server.publish(channel, { key, data: 'at first' });
  const path = await LossyPath.start(server.base, SEED);
  try {
    const id = await peer.open(transport, { base: path.base, channels: [channel] });
    await peer.call('wait', { id, channel, for: { synced: true }, timeout });
    const seen = new Seen();
    const look = async () => seen.add(await peer.call('kept', { id, channel }));
    await look();
    assert.equal(seen.count, KEYS.length);

    path.share = SHARE;
    let head;
    for (let round = 1; round <= ROUNDS; round++) {
      const changes = KEYS.map((key, n) => server.publish(channel, { key, ...contentOf(round, n) }));
      const [positions] = await Promise.all([Promise.all(changes), look()]);
      head = positions.reduce((a, b) => (b.offset > a.offset ? b : a));
    }
    const last = KEYS.map((key, n) => [key, contentOf(ROUNDS, n)]).filter(([, { removed }]) => !removed);
    assert.ok(last.length > 0 && last.length < KEYS.length);
    const values = Object.fromEntries(last);
    await until(() => peer.call('view', { id, channel }), (view) => assert.deepEqual(view, { synced: true, values }));
    const cursor = await until(
      () => peer.call('cursor', { id }),
      (answer) => {
        const [{ epoch, offset }] = parseCursor(answer.cursor);
        assert.equal(epoch, head.epoch);
        assert.equal(offset, head.offset, 'the cursor is at the head');
        return answer.cursor;
      },
    );
    await look();
    assert.deepEqual((await peer.call('digest', { id, channel })).controls, ['reset', 'synced'], 'one snapshot');
    for (const direction of ['up', 'down']) assert.ok(path[direction].lost > 0, `nothing was lost on the way ${direction}`);

    path.share = 0;
    await peer.call('close', { id });
    await peer.call('closed', { id, timeout });
    await nothingLeft(server, channel, cursor);
  } finally {
    await path.stop();
  }
}

/** After the cursor comes, on another transport, what is published next and nothing from before. */
async function nothingLeft(server, channel, cursor) {
  const next = { key: 'next', ...(await server.publish(channel, { key: 'next', data: 'next' })) };
  const came = [];
  const onmessage = ({ type, key, epoch, offset }) => came.push({ type, key, epoch, offset });
  const connection = await open('poll', { base: server.base, channels: [channel], after: cursor, wait: 20, onmessage });
  try {
    await until(() => came, () => assert.ok(came.some(({ key }) => key === 'next'), `after ${cursor} only ${JSON.stringify(came)} came`));
    assert.deepEqual(came, [{ type: 'publication', ...next }]);
  } finally {
    connection.close();
  }
}

export const scenarios = [
  {
    name: 'state converges while a quarter of the packets is lost',
    applies: ({ transport }) => transport === 'webtransport',
    run: converges,
  },
];
