/**
 * The client in real browsers while the world changes around it: whatever happens, events come in order, none of them
 * lost and none twice, and state ends on its newest values.
 */
import { setLink } from './namespace.mjs';
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { freeze } from './freeze.mjs';
import { best, engines, launch, until, within } from './browsers.mjs';
import { startProxy } from './proxy.mjs';
import { World } from './world.mjs';

/** How long a page is frozen. */
const FROZEN_MS = 20_000;
/** As many as there are in a window of somebody who closes none. */
const TABS = 100;

/** Runs with a world of its own, which is gone behind it. */
const inWorld = (browser, options, run) => async (t) => {
  const world = await World.start(browser(), options);
  try {
    await run(world, t);
  } catch (error) {
    if (world.page) error.message += `\n${await world.said(() => window.report())}`;
    throw error;
  } finally {
    await world.stop();
  }
};

/** Stops all that a page does; what wakes it. */
const freezeIn = {
  async chromium(page) {
    const session = await page.createCDPSession();
    const set = (state) => session.send('Page.setWebLifecycleState', { state });
    await set('frozen');
    return () => set('active');
  },
  firefox: freeze,
  webkit: freeze,
};

/** That nothing was lost of what was published, and nothing came twice. */
function assertWhole({ first, last, count, lost, repeated, disordered, gaps, ends }) {
  assert.deepEqual({ lost, repeated, disordered, gaps, ends }, { lost: 0, repeated: 0, disordered: 0, gaps: 0, ends: [] });
  assert.equal(count, last - first + 1);
}

/** When a transport came, of those from a time on. */
const since = ({ transports }, from, transport) => transports.find(([name, at]) => name === transport && at >= from)?.[1] - from;

for (const name of engines) {
  describe(name, () => {
    const transport = best(name);
    const hasWebTransport = transport === 'webtransport';
    let launched;
    before(async () => {
      launched = await launch(name);
    });
    after(() => launched?.close());
    const browser = () => launched.browser;

    // Others do not without a window, and are told of the network by the test.
    const looksAtLinks = name === 'chromium';
    const goesAndIsBack = inWorld(browser, { best: transport }, async (world, t) => {
      const { now: goneAt } = await world.begin();
      const cuts = await Promise.all([world.cut('udp'), world.cut('tcp')]);
      if (looksAtLinks) await setLink('down');
      const gone = await world.reach({ transport: null });
      t.diagnostic(`not connected ${gone.now - goneAt} ms after the network went`);
      if (looksAtLinks) await world.reach({ online: false });
      await Promise.all(cuts.map((mend) => mend()));
      if (looksAtLinks) await setLink('up').then(() => world.reach({ online: true }));
      else await world.page.evaluate(() => window.dispatchEvent(new Event('online')));
      const { now: backAt } = await world.page.evaluate(() => window.report());
      const back = await world.reach({ status: 'open' });
      t.diagnostic(`${back.transport} ${back.now - backAt} ms after the browser knew of the network`);
      assert.ok(back.now - backAt < 3000, 'at once');
      const risen = await world.reach({ transport });
      await world.reach({ count: risen.count + 20 });
      assertWhole(await world.settle());
    });

    describe('while others do', { concurrency: true }, () => {
      if (!looksAtLinks) test('the network goes, and is back', goesAndIsBack);

      test('UDP is cut off in mid-session, and comes back', { skip: !hasWebTransport }, inWorld(browser, { best: transport }, async (world, t) => {
        const { now: cutAt } = await world.begin();
        const mend = await world.cut('udp');
        const fallen = await world.reach({ transport: 'websocket' });
        t.diagnostic(`WebSocket ${since(fallen, cutAt, 'websocket')} ms after UDP was cut off`);
        await mend();
        const risen = await world.reach({ transport: 'webtransport', moves: 1 });
        t.diagnostic(`WebTransport ${since(risen, fallen.now, 'webtransport')} ms after UDP was back`);
        await world.reach({ count: risen.count + 20 });
        const report = await world.settle();
        assertWhole(report);
        const moved = report.transports.filter(([, at]) => at >= cutAt).map(([transport]) => transport);
        assert.deepEqual(moved, [null, 'websocket', 'webtransport']);
      }));

      test('UDP comes back when the first handshake has been given up', { skip: !hasWebTransport }, inWorld(browser, { best: 'websocket' }, async (world, t) => {
        const mend = await world.cut('udp');
        await world.begin();
        const attempt = () => world.page.evaluate(() => window.client.attempts.find(({ transport }) => transport === 'webtransport'));
        const { ms } = await until('the end of the handshake', () => delay(50).then(attempt), ({ outcome }) => outcome === 'failed');
        const { now } = await world.page.evaluate(() => window.report());
        await mend();
        const risen = await world.reach({ transport: 'webtransport', moves: 1 });
        t.diagnostic(`given up after ${Math.round(ms)} ms, WebTransport ${since(risen, now, 'webtransport')} ms after UDP was back`);
        await world.reach({ count: risen.count + 20 });
        const report = await world.settle();
        assertWhole(report);
        assert.deepEqual(report.transports.map(([transport]) => transport), ['websocket', 'webtransport']);
      }));

      for (const [how, signal] of [['ends', 'SIGTERM'], ['is killed', 'SIGKILL']]) {
        test(`the server ${how}, and another has its place and another certificate`, inWorld(browser, { best: transport }, async (world, t) => {
          await world.begin();
          const { now: endedAt, last } = await world.settle();
          await world.restart(signal);
          assert.equal(world.hashes.filter((hash) => world.hashesBefore.includes(hash)).length, 0, 'it has other hashes');
          const back = await world.reach({ transport, reconnects: 1 });
          t.diagnostic(`${transport} ${since(back, endedAt, transport)} ms after the server was to end`);
          await world.reach({ gaps: 1 });
          world.feed.start();
          await world.reach({ last: last + 20 });
          const report = await world.settle();
          assertWhole({ ...report, gaps: 0 });
          assert.deepEqual([report.gaps, report.reconnects], [1, 1]);
        }));
      }

      test('what is published while no answers come is applied once, and answered', inWorld(browser, { best: transport }, async (world) => {
        await world.begin();
        const [channel] = [`${world.feed.channels.event}-mine`];
        const { cursor } = await world.feed.ask(`/poll?channel=${channel}`);
        const held = async () => (await world.feed.ask(`/poll?channel=${channel}&after=${cursor}`)).publications.map(({ data }) => data);
        // The server hears the page, and applies what it says: only its answers are lost.
        const mend = await world.cut(hasWebTransport ? 'udp' : 'tcp', ['down']);
        await world.page.evaluate((channel) => {
          const publish = (n) => window.client.publish(channel, n);
          window.answers = [0, 1, 2].map(publish);
          window.client.addEventListener('transport', () => { window.answers.push(...[3, 4, 5].map(publish)); }, { once: true });
        }, channel);
        await until('what came without an answer', held, ({ length }) => length >= 3);
        if (!hasWebTransport) await world.reach({ transport: null }).then(mend);
        await world.reach({ transport: 'websocket', reconnects: 1 });
        const answers = await within('the answers', world.page.evaluate(() => Promise.all(window.answers)));
        assert.deepEqual(answers.map(({ offset }) => offset), [1, 2, 3, 4, 5, 6]);
        assert.deepEqual(await held(), [0, 1, 2, 3, 4, 5]);
        assertWhole(await world.settle());
      }));

      for (const [what, buffering, transport] of [['', false, 'sse'], [', and event streams are held back', true, 'poll']]) {
        test(`UDP and WebSocket are blocked${what}`, inWorld(browser, { best: transport }, async (world, t) => {
          const proxy = await startProxy(world.server.base, { buffering });
          try {
            await world.cut('udp');
            world.origin = proxy.base;
            const { transports } = await world.begin(transport);
            t.diagnostic(transports.map(([name, at]) => `${name} after ${at} ms`).join(', '));
            const [[, sseAt], [, givenUpAt] = []] = transports;
            assert.deepEqual(transports.map(([each]) => each), buffering ? ['sse', null, 'poll'] : ['sse']);
            if (buffering) assert.ok(givenUpAt - sseAt < 5500, 'a silent stream is given up after 3 s');
            const report = await world.reach({ count: 30 });
            assertWhole(await world.settle());
            assert.ok(proxy.refused > 0, 'a WebSocket was tried');
            assert.deepEqual(report.transports, transports, 'it stays so');
          } finally {
            await proxy.close();
          }
        }));
      }

      // Its host is its own, and so is its process.
      test('the page is frozen', inWorld(browser, { best: transport, host: 'localhost' }, async (world, t) => {
        await world.begin();
        await world.page.evaluate(() => {
          window.stillness = 0;
          let last = performance.now();
          setInterval(() => {
            window.stillness = Math.max(window.stillness, performance.now() - last);
            last = performance.now();
          }, 100);
        });
        const wake = await freezeIn[name](world.page);
        const before = world.feed.next;
        const end = performance.now() + FROZEN_MS;
        const isOver = () => performance.now() > end && world.feed.next > before + 100;
        // What is stopped does not end with its browser.
        await until('what is published meanwhile', () => delay(100), isOver).finally(wake);
        // Behind the turn that comes late: timers go off in the order in which they are due.
        const stillness = await world.page.evaluate(() => new Promise((resolve) => { setTimeout(() => resolve(window.stillness), 200); }));
        assert.ok(stillness > FROZEN_MS - 500, `it was still for ${stillness} ms`);
        const next = world.feed.next;
        const { reconnects, transport: now } = await world.reach({ last: next });
        t.diagnostic(`${reconnects} reconnects`);
        const report = await world.settle();
        assertWhole(report);
        assert.equal(now, transport);
        assert.ok(report.reconnects <= 1);
      }));
    });

    // Pages of other tests would know of it too.
    if (looksAtLinks) test('the network goes, and is back', goesAndIsBack);

    test(`${TABS} tabs on one server, opened at once`, async (t) => {
      const world = await World.start(browser(), { best: transport });
      const began = performance.now();
      try {
        await world.openFrames(TABS);
        const opened = performance.now();
        t.diagnostic(`${TABS} are connected after ${Math.round(opened - began)} ms`);
        world.feed.start();
        await world.reachAll({ last: 20 });
        const last = await world.feed.stop();
        const reports = await world.reachAll({ last, state: world.feed.state });
        t.diagnostic(`and all ${last + 1} events of each ${Math.round(performance.now() - opened)} ms later`);
        const took = reports.map(({ transports: [[, at]] }) => at).sort((a, b) => a - b);
        t.diagnostic(`each within ${took[TABS / 2]} ms of its beginning in the middle, ${took.at(-1)} ms at most`);
        const risen = reports.filter((report) => report.transport === transport).length;
        t.diagnostic(`${risen} of them over ${transport}`);
        assert.equal(reports.length, TABS);
        assert.ok(risen > 0);
        for (const report of reports) {
          assertWhole(report);
          assert.equal(report.first, 0);
        }
      } finally {
        await world.stop();
      }
    });
  });
}
