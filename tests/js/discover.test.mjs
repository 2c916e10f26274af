/** Where WebTransport opened is remembered, and asked again when it does not open there. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { KNOWN_MS } from '../../client/js/limits.js';
import { Dialler } from '../../client/js/dial.js';
import { know, known } from '../../client/js/transports/discover.js';
import { openWebTransport } from '../../client/js/transports/webtransport.js';
import { clock, settled } from './memory.mjs';

let serial = 0;

/** A server that can be dialled at the place that it names, with the certificate that it names, while it is `reachable`. */
function server() {
  const at = { base: `http://known${serial++}`, asked: 0, dialled: [], place: { url: 'https://h:1/wt' }, reachable: true, closed: 0 };
  at.fetch = async () => {
    at.asked++;
    return at.place ? Response.json({ webtransport: at.place }) : Response.json({ error: { code: 'forbidden', message: 'No.' } }, { status: 403 });
  };
  at.WebTransport = class {
    constructor(url, { serverCertificateHashes: [{ value: [pin] }] = [{ value: [] }] }) {
      at.dialled.push([url, pin].filter((it) => it !== undefined).join(' '));
      const isThere = at.reachable && url === at.place?.url && (at.place.certificate_hashes?.[0].value ?? '') === (pin ? btoa(String.fromCharCode(pin)) : '');
      this.ready = at.reachable === 'late' ? new Promise((resolve) => { at.arrive = resolve; }) : isThere ? Promise.resolve() : Promise.reject(new Error('refused'));
      this.closed = new Promise(() => {});
      this.datagrams = { readable: new ReadableStream(), writable: new WritableStream() };
    }
    async createBidirectionalStream() {
      return { readable: new ReadableStream(), writable: new WritableStream() };
    }
    close() {
      at.closed++;
    }
  };
  at.open = () => openWebTransport({ base: at.base, fetch: at.fetch, WebTransport: at.WebTransport });
  return at;
}

const pinned = (pin) => [{ algorithm: 'sha-256', value: btoa(String.fromCharCode(pin)) }];

describe('where WebTransport is', () => {
  test('is asked once', async () => {
    const at = server();
    at.place.certificate_hashes = pinned(7);
    for (let i = 0; i < 3; i++) await at.open();
    assert.equal(at.asked, 1);
    assert.deepEqual(at.dialled, ['https://h:1/wt 7', 'https://h:1/wt 7', 'https://h:1/wt 7']);
  });

  test('is remembered beside the verdict of WebTransport alone', async () => {
    const at = server();
    const open = () => new Dialler(at.base, ['webtransport'], at.open).dial();
    await open();
    await open();
    assert.equal(at.asked, 1);
  });

  test('is not remembered before it has opened', async () => {
    const at = server();
    at.reachable = false;
    await assert.rejects(at.open(), { code: 'unreachable' });
    await assert.rejects(at.open(), { code: 'unreachable' });
    assert.equal(at.asked, 2);
    assert.equal(known(at.base), null);
  });

  test('is asked again when the certificate was renewed, or the port is another', async () => {
    const at = server();
    at.place.certificate_hashes = pinned(7);
    await at.open();
    at.place = { url: 'https://h:1/wt', certificate_hashes: pinned(8) };
    await at.open();
    at.place = { url: 'https://h:2/wt', certificate_hashes: pinned(8) };
    await at.open();
    await at.open();
    assert.equal(at.asked, 3);
    assert.deepEqual(at.dialled.slice(1), ['https://h:1/wt 7', 'https://h:1/wt 8', 'https://h:1/wt 8', 'https://h:2/wt 8', 'https://h:2/wt 8']);
  });

  test('is not dialled twice where the server says the same', async () => {
    const at = server();
    await at.open();
    at.reachable = false;
    await assert.rejects(at.open(), { code: 'unreachable' });
    assert.equal(at.dialled.length, 2);
    assert.equal(known(at.base), null);
  });

  test('is asked when nothing comes from there, and still waited for where the server says the same', async (context) => {
    const time = clock(context);
    const at = server();
    await at.open();
    at.reachable = 'late';
    const opening = at.open();
    await time.pass(990);
    assert.equal(at.asked, 1);
    await time.pass(20);
    assert.deepEqual([at.asked, at.dialled.length, at.closed], [2, 2, 0]);
    at.arrive();
    await opening;
    assert.notEqual(known(at.base), null);
  });

  test('is given up when the server is elsewhere, or wants nobody', async (context) => {
    const time = clock(context);
    for (const place of [{ url: 'https://h:2/wt' }, null]) {
      const at = server();
      await at.open();
      at.reachable = 'late';
      const opening = at.open();
      await settled();
      const arrive = at.arrive;
      Object.assign(at, { place, reachable: true });
      const ended = place ? opening : assert.rejects(opening, { code: 'forbidden' });
      await time.pass(1010);
      await ended;
      // It opens in the end, and nobody wants it.
      arrive();
      await settled();
      assert.equal(at.closed, 1);
      assert.deepEqual(at.dialled.slice(2), place ? ['https://h:2/wt'] : []);
    }
  });

  test("the server's own word goes before that of the browser", async () => {
    const at = server();
    await at.open();
    at.place = null;
    await assert.rejects(at.open(), { code: 'forbidden' });
  });

  test('is asked again after a day, and when what is stored makes no sense', async (context) => {
    const at = server();
    await at.open();
    context.mock.timers.enable({ apis: ['Date'], now: Date.now() + KNOWN_MS - 1000 });
    await at.open();
    assert.equal(at.asked, 1);
    context.mock.timers.tick(2000 + KNOWN_MS);
    await at.open();
    assert.equal(at.asked, 2);
    know(at.base, 'nonsense');
    await at.open();
    assert.equal(at.asked, 3);
  });
});
