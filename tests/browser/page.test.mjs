/** The development page as it is seen: four panels that come back by themselves and say what is wrong meanwhile. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import { Server } from '../parity/server.mjs';
import { launch, until, wanted } from './browsers.mjs';

const NAMES = ['webtransport', 'websocket', 'sse', 'poll'];

/** What the page shows of each panel. */
const look = (page) => page.evaluate(() => Object.fromEntries([...document.querySelectorAll('.panel')].map((panel) => {
  const text = (selector) => [...panel.querySelectorAll(selector)].map((element) => element.textContent);
  const trouble = panel.querySelector('.trouble').hidden ? [] : text('.trouble p');
  const [cursor] = text('.cursor code');
  return [panel.dataset.transport, {
    state: panel.dataset.state, figures: text('[data-figure]'), charts: text('.chart p'), cursor, trouble,
  }];
})));

const allAre = (state) => (panels) => NAMES.every((name) => panels[name]?.state === state);

/** Waits until an event that was published now stands in the feed with its delay on each of these transports. */
async function followAnEvent(server, page, names = NAMES) {
  const message = `Something happened: ${randomUUID()}`;
  await server.publish('event:host', { data: { level: 'warn', message } });
  await until(`the delays of ${message}`, () => page.evaluate((message, names) => {
    const row = [...document.querySelectorAll('.log li')].find((row) => row.textContent.includes(message));
    return names.map((name) => row?.querySelector(`[data-transport="${name}"]`).textContent);
  }, message, names), (delays) => delays.every((delay) => /^\d+ ms$/.test(delay ?? '')));
}

/** Until nothing is left to come: all values have been told, and the figures of some seconds. */
const isFull = ({ state, figures, charts, cursor, trouble }) => state === 'live' && !trouble.length
  && figures.every((figure) => figure && figure !== '–') && charts.every((chart) => /\d/.test(chart)) && /^\w{4}….\S+ \+5$/.test(cursor);

/** What is called in the page: whether something stands in each chart besides the three lines of its grid. */
function helpers() {
  window.isDrawn = (canvas) => {
    const { width, height } = canvas;
    const rows = Array.from({ length: height }, (_, y) => canvas.getContext('2d').getImageData(0, y, width, 1).data);
    return rows.filter((row) => row.some((byte) => byte)).length > 3;
  };
  window.drawn = () => [...document.querySelectorAll('.panel canvas')].map(window.isDrawn);
}

for (const name of wanted) {
  describe(`the development page in ${name}`, { concurrency: true }, () => {
    test('shows this machine over four transports, and goes on when the server is back', async () => {
      let server = await Server.start();
      const { browser, close } = await launch(name);
      try {
        const page = await browser.newPage();
        const errors = [];
        page.on('pageerror', (error) => errors.push(error.message));
        await page.goto(`${server.base}/`);
        await until('four full panels', () => look(page), (panels) => NAMES.every((name) => isFull(panels[name])));
        await followAnEvent(server, page);
        assert.deepEqual(errors, []);
        const host = await page.evaluate(() => [...document.querySelectorAll('[data-host]')].map(({ textContent }) => textContent));
        assert.ok(host.every((text) => text !== '–'), `${host}`);

        const { port: http } = new URL(server.base);
        const { webtransport } = await (await fetch(`${server.base}/connect`)).json();
        const { port: quic } = new URL(webtransport.url);
        // Without a goodbye: a page of Chromium 156 may crash where a server closes a session that has streams.
        server.process.kill('SIGKILL');
        await server.ended;
        await until('four panels that wait', () => look(page), (panels) => NAMES.every((name) => {
          const { state, trouble: [why, what, next] } = panels[name];
          return state === 'waiting' && why && what && /^Next try in \d+ s$/.test(next);
        }));

        server = await Server.start([], { http: `127.0.0.1:${http}`, quic: `127.0.0.1:${quic}` });
        // The page's word that there is a network again cuts the pauses short.
        await page.evaluate(() => window.dispatchEvent(new Event('online')));
        await until('four live panels', () => look(page), allAre('live'));
        await followAnEvent(server, page);
      } finally {
        await close();
        await server.stop();
      }
    });

    test('draws charts that are far below, and those that are resized before they are seen', async () => {
      const server = await Server.start();
      const { browser, close } = await launch(name);
      try {
        const page = await browser.newPage();
        await page.setViewport({ width: 420, height: 500 });
        await page.goto(`${server.base}/`);
        await page.evaluate(helpers);
        await until('four full panels', () => look(page), (panels) => NAMES.every((name) => isFull(panels[name])));
        await until('all charts', () => page.evaluate(() => window.drawn()), (drawn) => drawn.length === 16 && drawn.every(Boolean));
        // What is observed later is told later, in the same frame: as it will be painted.
        const painted = await page.evaluate(() => new Promise((resolve) => {
          const [canvas] = document.querySelectorAll('.panel canvas');
          const { width } = canvas;
          new ResizeObserver(() => canvas.width !== width && resolve(window.drawn())).observe(canvas);
          document.body.style.width = '300px';
        }));
        assert.deepEqual(painted, painted.map(() => true));
      } finally {
        await close();
        await server.stop();
      }
    });

    test('says what the browser does not have, and shows the rest', async () => {
      const server = await Server.start();
      const { browser, close } = await launch(name);
      try {
        const page = await browser.newPage();
        await page.evaluateOnNewDocument(() => { delete globalThis.WebTransport; });
        await page.goto(`${server.base}/`);
        const panels = await until('what came of each', () => look(page), ({ webtransport, ...others }) => (
          webtransport?.state === 'failed' && Object.values(others).every(isFull)
        ));
        const { trouble: [why, , next] } = panels.webtransport;
        assert.deepEqual([why, next], ['This browser has no WebTransport.', '']);
        await followAnEvent(server, page, NAMES.slice(1));
      } finally {
        await close();
        await server.stop();
      }
    });
  });
}
