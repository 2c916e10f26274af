/** Tabs that have to read over HTTP/1.1 share one event stream, or one poll, and lose nothing when the one that reads goes. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Server, channelIn } from '../parity/server.mjs';
import { engines, launch, until, within } from './browsers.mjs';

/** More than the connections that a browser has to one server over HTTP/1.1; and as many as somebody keeps who closes none. */
const TABS = { poll: 8, sse: 16 };

describe('tabs', () => {
  for (const name of engines) {
    describe(name, () => {
      for (const [transport, tabs] of Object.entries(TABS)) {
        test(`${tabs} tabs share one ${transport}`, async (t) => {
          const server = await Server.start();
          const { browser, close } = await launch(name);
          try {
            const channel = channelIn('event'), state = channelIn('state');
            await server.post('/api/publish', { channel: state, key: 'a', data: 1 });
            const open = async () => {
              const page = await browser.newPage();
              await page.goto(`${server.base.replace('127.0.0.1', 'localhost')}/healthz`);
              await within('a tab subscribes', page.evaluate(subscribe, transport, channel, state));
              return page;
            };
            const began = performance.now();
            // The first reads for all, and the second when it is gone.
            const pages = [await open(), await open()];
            pages.push(...await Promise.all(Array.from({ length: tabs - pages.length }, open)));
            t.diagnostic(`${tabs} tabs read after ${Math.round(performance.now() - began)} ms`);
            const { sessions } = await stats(server);
            assert.ok(sessions <= 1, `${sessions} sessions read for ${tabs} tabs`);

            await publish(server, channel, 0, 20);
            for (const page of pages) assert.deepEqual(await received(page, 20), numbers(20));

            // The one that reads goes, then the next.
            for (const [i, count] of [[0, 40], [1, 60]]) {
              const publishing = publish(server, channel, count - 20, count);
              await pages[i].close();
              await publishing;
              for (const page of pages.slice(i + 1)) assert.deepEqual(await received(page, count), numbers(count));
            }
            await server.post('/api/publish', { channel: state, key: 'a', removed: true });
            await server.post('/api/publish', { channel: state, key: 'b', data: 2 });
            for (const page of pages.slice(2)) {
              await until('the newest values', () => page.evaluate(() => JSON.stringify([...globalThis.view])), (text) => text === '[["b",2]]');
              assert.deepEqual(await page.evaluate(() => globalThis.gaps), []);
            }
          } finally {
            await close();
            await server.stop();
          }
        });
      }
    });
  }
});

const numbers = (count) => Array.from({ length: count }, (_, number) => number);

const stats = async (server) => (await fetch(`${server.base}/api/stats`)).json();

async function publish(server, channel, from, to) {
  for (let number = from; number < to; number++) await server.post('/api/publish', { channel, data: number });
}

const received = (page, count) => until(`${count} publications`, () => page.evaluate(() => globalThis.seen), (seen) => seen.length >= count);

/** In a page. */
async function subscribe(transport, channel, state) {
  const { connect } = await import('/client/fulmar.js');
  globalThis.seen = [];
  globalThis.gaps = [];
  const client = connect(undefined, { transports: [transport] });
  client.addEventListener('gap', ({ detail }) => globalThis.gaps.push(detail));
  globalThis.view = client.state(state);
  await Promise.all([
    client.subscribe(channel, { onPublication: ({ data }) => globalThis.seen.push(data) }).ready,
    globalThis.view.ready,
  ]);
}
