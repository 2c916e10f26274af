/**
 * The client in real browsers while the world changes around it: whatever happens, events come in order, none of them
 * lost and none twice, and state ends on its newest values.
 */
import './namespace.mjs';
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { launch, wanted } from './browsers.mjs';
import { World } from './world.mjs';

/** Runs with a world of its own, which is gone behind it. */
const inWorld = (browser, options, run) => async (t) => {
  const world = await World.start(browser(), options);
  try {
    await run(world, t);
  } catch (error) {
    const report = await world.page?.evaluate(() => window.report()).catch(() => 'no report');
    error.message += `\n${JSON.stringify(report)}`;
    throw error;
  } finally {
    await world.stop();
  }
};

/** That nothing was lost of what was published, and nothing came twice. */
function assertWhole({ first, last, count, lost, repeated, gaps, ends }) {
  assert.deepEqual({ lost, repeated, gaps, ends }, { lost: 0, repeated: 0, gaps: 0, ends: [] });
  assert.equal(count, last - first + 1);
}

/** When a transport came, of those from a time on. */
const since = ({ transports }, from, transport) => transports.find(([name, at]) => name === transport && at >= from)?.[1] - from;

for (const name of wanted) {
  describe(name, () => {
    let launched;
    before(async () => {
      launched = await launch(name);
    });
    after(() => launched?.close());
    const browser = () => launched.browser;

    describe('while others do', { concurrency: true }, () => {
      test('UDP is cut off in mid-session, and comes back', inWorld(browser, {}, async (world, t) => {
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
        assert.deepEqual(report.transports.map(([transport]) => transport), ['webtransport', null, 'websocket', 'webtransport']);
      }));
    });
  });
}
