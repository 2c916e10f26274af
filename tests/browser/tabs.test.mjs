/** Tabs that have to read over HTTP/1.1 share one event stream, or one poll, and lose nothing when the one that reads goes. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Server } from '../parity/server.mjs';
import { engines, launch, until, within } from './browsers.mjs';

/** More than the connections that a browser has to one server over HTTP/1.1. */
const TABS = 8;

describe('tabs', () => {
  /** @type {Server} */
  let server;
  before(async () => { server = await Server.start(); });
  after(() => server.stop());

  for (const name of engines) {
    for (const transport of ['sse', 'poll']) {
      test(`${name}: ${TABS} tabs share one ${transport}`, async () => {
        const { browser, close } = await launch(name);
        try {
          const channel = `event:${name}.${transport}`;
          const state = `state:${name}.${transport}`;
          await server.post('/api/publish', { channel: state, key: 'a', data: 1 });
          const before = (await stats(server)).sessions;
          const pages = [];
          for (let i = 0; i < TABS; i++) {
            const page = await browser.newPage();
            await page.goto(`${server.base.replace('127.0.0.1', 'localhost')}/healthz`);
            await within('a tab subscribes', page.evaluate(subscribe, transport, channel, state));
            pages.push(page);
          }
          const reading = (await stats(server)).sessions - before;
          assert.ok(reading <= 1, `${reading} sessions read for ${TABS} tabs`);

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
        }
      });
    }
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
