/** The client in workers, which have no document, no storage and nobody who looks at them: one of a page's own, and one that pages share. */
import './namespace.mjs';
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { best, engines, launch, until } from './browsers.mjs';
import { World, helpers } from './world.mjs';

/** What runs in a worker, behind `helpers`. */
function answers() {
  const { begin } = globalThis;
  /** @type {Promise<void>} One client, however many pages ask. */
  let begun;
  globalThis.begin = (...args) => (begun ??= begin(...args));
  const hear = (port) => {
    port.onmessage = async ({ data: { id, call, args } }) => {
      const settled = (async () => globalThis[call](...args))();
      port.postMessage(await settled.then((value) => ({ id, value }), (error) => ({ id, error: String(error) })));
    };
  };
  if (globalThis.SharedWorkerGlobalScope) globalThis.onconnect = ({ ports: [port] }) => hear(port);
  else hear(globalThis);
  globalThis.kind = () => globalThis.constructor.name;
  globalThis.goodbye = () => globalThis.client.close();
}

/** In a page: what a page would call there is asked of a worker of its own, or of the one behind a URL. */
function askWorker(source, kind, url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }))) {
  const worker = new globalThis[kind](url, { type: 'module' });
  const port = worker.port ?? worker;
  const waiting = new Map();
  let ids = 0;
  port.onmessage = ({ data: { id, value, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(value);
  };
  const failed = new Promise((_, reject) => { worker.onerror = ({ message }) => reject(new Error(`the worker failed: ${message}`)); });
  failed.catch(() => {});
  const ask = (call) => (...args) => Promise.race([failed, new Promise((resolve, reject) => {
    const id = ids++;
    waiting.set(id, { resolve, reject });
    port.postMessage({ id, call, args });
  })]);
  for (const call of ['begin', 'reach', 'report', 'kind', 'goodbye']) window[call] = ask(call);
  window.end = () => worker.terminate();
  return url;
}

const source = `globalThis.window = globalThis;\n(${helpers})();\n(${answers})();`;
/** An event channel and one of state. */
const CHANNELS = 2;

describe('workers', { concurrency: true }, () => {
  for (const name of engines) describe(name, { concurrency: true }, () => {
    let launched;
    before(async () => { launched = await launch(name); });
    after(() => launched?.close());

    /** A world whose client is in a worker, which is what `where` says. */
    const inWorld = (kind, where, run) => async (t) => {
      let url;
      const prepare = async (page) => { url = await page.evaluate(askWorker, source, kind, ...(url ? [url] : [])); };
      const world = await World.start(launched.browser, { best: best(name), prepare });
      try {
        await run(world, t);
        assert.equal(await world.page.evaluate(() => window.kind()), where);
      } catch (error) {
        error.message += `\n${JSON.stringify(await world.page?.evaluate(() => window.report()).catch(String))}`;
        throw error;
      } finally {
        await world.stop();
      }
    };

    function assertWhole({ first, last, count, lost, repeated, disordered, gaps, ends }) {
      assert.deepEqual({ lost, repeated, disordered, gaps, ends }, { lost: 0, repeated: 0, disordered: 0, gaps: 0, ends: [] });
      assert.equal(count, last - first + 1);
    }

    const detached = async (world) => (await world.feed.ask('/api/stats')).detached_subscriptions;

    async function fallAndClose(world, t) {
      const { now: cutAt } = await world.begin();
      if (best(name) === 'webtransport') {
        await world.cut('udp');
        const { transports } = await world.reach({ transport: 'websocket' });
        t.diagnostic(`WebSocket ${transports.at(-1)[1] - cutAt} ms after UDP was cut off`);
      }
      const { count } = await world.page.evaluate(() => window.report());
      await world.reach({ count: count + 20 });
      assertWhole(await world.settle());
      assert.equal(await detached(world), 0);
      const began = performance.now();
      await world.page.evaluate(() => window.goodbye());
      const { ends } = await world.reach({ status: 'closed' });
      assert.match(ends.join(), /^\d+: 1000 $/);
      await until('the end of the connection', () => detached(world), (n) => n === CHANNELS);
      t.diagnostic(`the server knew ${Math.round(performance.now() - began)} ms after the close`);
    }

    const dedicated = 'DedicatedWorkerGlobalScope', shared = 'SharedWorkerGlobalScope';
    test('a dedicated worker connects, falls back and says goodbye', inWorld('Worker', dedicated, fallAndClose));
    test('a shared worker connects, falls back and says goodbye', inWorld('SharedWorker', shared, fallAndClose));

    test('pages share the client of a shared worker, and the one that made it goes', inWorld('SharedWorker', shared, async (world) => {
      await world.begin();
      const first = world.page;
      world.page = await world.context.newPage();
      await world.page.goto(`${world.origin}/healthz`);
      await world.prepare(world.page);
      await world.page.evaluate((channels) => window.begin(channels), world.feed.channels);
      const { count } = await world.page.evaluate(() => window.report());
      assert.ok(count >= 5, 'it is the same client');
      await first.close();
      await world.reach({ count: count + 20 });
      const report = await world.settle();
      assertWhole(report);
      assert.deepEqual([report.transports.length, report.reconnects], [1, 0]);
      assert.equal((await world.feed.ask('/api/stats')).sessions, 1);
    }));
  });
});
