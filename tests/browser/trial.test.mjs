/**
 * A trial: numbered events for pages to which things happen, one after another, chosen by a seed. Each page says in the
 * end that it saw every event once and in order. FULMAR_SEED is another seed, FULMAR_TRIAL_MS another length.
 */
import { reset } from './namespace.mjs';
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { generator } from '../parity/lossy.mjs';
import { best, engines, launch } from './browsers.mjs';
import { World } from './world.mjs';

const SEED = Number(process.env.FULMAR_SEED ?? 1);
/** Nothing new happens after this time. */
const TRIAL_MS = Number(process.env.FULMAR_TRIAL_MS ?? 45_000);
/** From one event to the next. */
const EVERY_MS = 20;
/** How long something lasts: seldom long enough for a connection to be given up. */
const LEAST_MS = 100, MOST_MS = 10_000;
/** A page that hears nothing over WebTransport has given it up by then. */
const GIVEN_UP_MS = 8500;
/** How often the next thing happens before the page has recovered. */
const SOON = 0.3;

/** Cuts, for a while. */
const cutFor = (protocols, ways) => async (world, ms) => {
  const mends = await Promise.all(protocols.map((protocol) => world.cut(protocol, ways)));
  await delay(ms);
  await Promise.all(mends.map((mend) => mend()));
};

/** The page is told, and says what it was before. */
const dispatch = (world, type, persisted) => world.page.evaluate((type, persisted) => {
  window.dispatchEvent(persisted ? new PageTransitionEvent(type, { persisted }) : new Event(type));
}, type, persisted);

/** What happens to a page that has WebTransport. */
const OVER_UDP = {
  'UDP cut': cutFor(['udp']),
  'UDP cut, moved down and up': async (world, ms) => {
    await cutFor(['udp'])(world, GIVEN_UP_MS + ms / 10);
    const { transport } = await world.page.evaluate(() => window.report());
    if (transport === null) await world.reach({ status: 'open' });
    // As much as there can be is under way while one connection takes over from another.
    const risen = world.feed.rush(world.reach({ transport: 'webtransport' }));
    await dispatch(world, 'online');
    await risen;
  },
  'reset, UDP cut': (world, ms) => Promise.all([reset(world.http), cutFor(['udp'])(world, ms)]),
};

/** What happens to a page, and for how long if it lasts. */
const FAULTS = {
  'TCP cut': cutFor(['tcp']),
  'network cut': cutFor(['udp', 'tcp']),
  'answers lost': cutFor(['udp', 'tcp'], ['down']),
  'what it sends lost': cutFor(['udp', 'tcp'], ['up']),
  reset: (world) => reset(world.http),
  'another network': (world) => dispatch(world, 'online'),
  'put away': async (world, ms) => {
    await dispatch(world, 'pagehide', true);
    await delay(ms / 2);
    await dispatch(world, 'pageshow', true);
  },
  busy: (world, ms) => world.page.evaluate((ms) => {
    const end = performance.now() + ms;
    while (performance.now() < end);
  }, ms / 2),
  'server killed': (world) => anotherServer(world, 'SIGKILL'),
  'server ended': (world) => anotherServer(world, 'SIGTERM'),
};

/** What a server that is gone had in memory is gone, so pages have it before, and know of the one before it. */
async function anotherServer(world, signal) {
  const last = await world.feed.stop();
  await world.reach({ last, gaps: world.restarts });
  await world.restart(signal);
  world.feed.start();
  world.restarts++;
}

/** In an order of its own, each as often as the others. */
function* drawn(faults, random) {
  for (;;) {
    const turn = Object.entries(faults);
    while (turn.length) yield turn.splice(Math.floor(random() * turn.length), 1)[0];
  }
}

async function run(world, seed, t) {
  const random = generator(seed);
  const coming = drawn(world.best === 'webtransport' ? { ...FAULTS, ...OVER_UDP } : FAULTS, random);
  /** How long it took to have all that there was when it was over, by what had happened. */
  const recoveries = new Map();
  world.restarts = 0;
  await world.begin();
  const end = performance.now() + TRIAL_MS;
  while (performance.now() < end) {
    const [kind, fault] = coming.next().value;
    const ms = LEAST_MS + (MOST_MS - LEAST_MS) * random() ** 2;
    const recovers = random() >= SOON;
    const times = recoveries.get(kind) ?? recoveries.set(kind, { count: 0, took: [] }).get(kind);
    times.count++;
    await fault(world, ms);
    if (!recovers) continue;
    const over = performance.now();
    await world.reach({ last: world.feed.next }).catch((error) => {
      error.message = `after '${kind}' of ${Math.round(ms)} ms: ${error.message}`;
      throw error;
    });
    times.took.push(performance.now() - over);
  }
  const last = await world.feed.stop();
  const report = await world.reach({ last, gaps: world.restarts, state: world.feed.state });
  for (const [kind, { count, took }] of recoveries) {
    const figures = took.length ? `, recovered after ${took.map(Math.round).sort((a, b) => a - b).join(', ')} ms` : '';
    t.diagnostic(`${kind}: ${count}${figures}`);
  }
  return report;
}

const VARIANTS = { all: undefined, 'HTTP only': ['sse', 'poll'] };

describe('trial', { concurrency: true }, () => {
  engines.forEach((name, i) => describe(name, { concurrency: true }, () => {
    let launched;
    before(async () => { launched = await launch(name); });
    after(() => launched?.close());

    Object.entries(VARIANTS).forEach(([variant, transports], j) => {
      const seed = SEED * 100 + i * 10 + j;
      test(`each event once and in order, ${variant}, seed ${SEED}`, async (t) => {
        const world = await World.start(launched.browser, { best: transports?.[0] ?? best(name), every: EVERY_MS, ...(transports && { transports }) });
        try {
          const { first, last, count, lost, repeated, disordered, gaps, ends, transports } = await run(world, seed, t);
          t.diagnostic(`${count} events, lost ${lost}, repeated ${repeated}, out of order ${disordered}, gaps ${gaps}, restarts ${world.restarts}`);
          t.diagnostic(`connections: ${transports.map(([transport]) => transport ?? 'none').join(' ')}`);
          assert.deepEqual({ lost, repeated, disordered, gaps, ends }, { lost: 0, repeated: 0, disordered: 0, gaps: world.restarts, ends: [] });
          assert.equal(count, last - first + 1);
        } catch (error) {
          error.message += `\nFULMAR_SEED=${SEED}: ${JSON.stringify(await world.page?.evaluate(() => window.report()).catch(String))}`;
          throw error;
        } finally {
          await world.stop();
        }
      });
    });
  }));
});
