/** A page is who it was on every connection that it opens, and waits for no answer to be that. */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { Server, channelIn } from '../parity/server.mjs';
import { launch, wanted, within } from './browsers.mjs';

const server = await Server.start();
after(() => server.stop());

/** What runs in the page: a connection, who it is, and where it reads on, all at once. */
function helpers() {
  const encoded = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
  window.mint = async () => {
    const secret = crypto.getRandomValues(new Uint8Array(24));
    const named = [...new TextEncoder().encode('fulmar session:'), ...secret];
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', Uint8Array.from(named)));
    return `${encoded(digest.subarray(0, 16))}.${encoded(secret)}`;
  };
  window.join = async (transport, secret, positions) => {
    const { open } = await import('/client/fulmar.js');
    const got = [];
    const connection = await open(transport, { attach: true, onmessage: (message) => got.push(message) });
    const attached = connection.attach(secret, { fresh: true });
    const subscribed = Object.entries(positions).map(([channel, position]) => connection.subscribe(channel, { position }));
    const [{ session, resumed }, ...answers] = await Promise.all([attached, ...subscribed]);
    return { connection, got, session, resumed, recovered: answers.map((answer) => answer.recovered) };
  };
}

for (const name of wanted) {
  describe(`a page in ${name}`, () => {
    test('goes from WebSocket to WebTransport and again as the one it was', async () => {
      const { browser, close } = await launch(name);
      try {
        const page = await browser.newPage();
        await page.goto(`${server.base}/healthz`);
        await page.evaluate(helpers);
        const channels = Array.from({ length: 12 }, () => channelIn('event'));
        const mine = channelIn('event');
        const ends = await within('three connections', page.evaluate(async (channels, mine) => {
          const secret = await window.mint();
          const ends = [];
          let positions = Object.fromEntries(channels.map((channel) => [channel, undefined]));
          let before;
          for (const transport of ['websocket', 'webtransport', 'webtransport']) {
            const now = await window.join(transport, secret, positions);
            const { offset } = await now.connection.publish(mine, { data: 'once', id: 'mine' });
            const places = await Promise.all(channels.map((channel) => now.connection.publish(channel, { data: transport })));
            positions = Object.fromEntries(places.map((place) => [place.channel, { epoch: place.epoch, offset: place.offset - 1 }]));
            while (now.got.filter(({ type }) => type === 'publication').length < channels.length * (before ? 2 : 1)) {
              await new Promise((resolve) => { now.connection.onmessage = (message) => resolve(now.got.push(message)); });
            }
            ends.push({
              named: now.session === secret.split('.')[0], resumed: now.resumed, recovered: now.recovered.filter(Boolean).length,
              gaps: now.got.filter(({ type }) => type === 'gap').length, offset, before: (await before?.connection.closed)?.code,
            });
            before = now;
          }
          before.connection.close();
          return ends;
        }, channels, mine));
        const moved = { named: true, resumed: true, recovered: channels.length, gaps: 0, offset: 1 };
        const first = { ...moved, resumed: false, recovered: 0 };
        assert.deepEqual(ends.map(({ before, ...end }) => end), [first, moved, moved]);
        assert.deepEqual(ends.map(({ before }) => before ?? null), [null, 4900, 4900], 'what was there before is told so');
      } finally {
        await close();
      }
    });
  });
}
