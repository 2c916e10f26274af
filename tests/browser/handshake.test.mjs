/**
 * QUIC's handshake as browsers make it: their first message comes in more than one packet, and in Chromium in an order of
 * its own each time. The server has to begin HTTP/3 at once whatever it sees first.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Server } from '../parity/server.mjs';
import { launch, wanted, within } from './browsers.mjs';

const SESSIONS = 40;

/** In a page. */
async function openInTurn(count) {
  const { open } = await import('/client/fulmar.js');
  const errors = [];
  for (let i = 0; i < count; i++) {
    try {
      const connection = await open('webtransport', { timeout: 5000 });
      await connection.ping();
      connection.close();
    } catch (error) {
      errors.push(`${i}: ${error}`);
    }
  }
  return errors;
}

describe('handshakes', () => {
  /** @type {Server} */
  let server;
  before(async () => { server = await Server.start(); });
  after(() => server.stop());

  for (const name of wanted) {
    test(`${name}: ${SESSIONS} sessions in turn`, async () => {
      const { browser, close } = await launch(name);
      try {
        const page = await browser.newPage();
        await page.goto(`${server.base}/healthz`);
        assert.deepEqual(await within('the sessions', page.evaluate(openInTurn, SESSIONS)), []);
      } finally {
        await close();
      }
    });
  }
});
