/** Where WebTransport opened is remembered, and asked again when it does not open there. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { KNOWN_MS } from '../../client/js/limits.js';
import { Dialler } from '../../client/js/dial.js';
import { guessed, know, known } from '../../client/js/transports/discover.js';
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
    assert.ok(!known(at.base));
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
    assert.ok(!known(at.base));
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

/** A server with a name, of which the page knows nothing: `names` is what it tells when it is let, `there` where sessions open. */
function named(base, names, there = [names], more = {}) {
  const at = { dialled: [], closed: [], asked: 0 };
  const answering = new Promise((resolve) => { at.answer = resolve; });
  at.arrive = {};
  const fetch = async () => {
    at.asked++;
    await answering;
    return names ? Response.json({ webtransport: { certificate_hashes: [], ...more, url: names } }) : Response.json({ error: { code: 'forbidden', message: 'No.' } }, { status: 403 });
  };
  class WebTransport {
    constructor(url) {
      at.dialled.push(url);
      this.place = url;
      this.ready = new Promise((resolve, reject) => { at.arrive[url] = () => (there.includes(url) ? resolve() : reject(new Error('refused'))); });
      this.closed = new Promise(() => {});
      this.datagrams = { readable: new ReadableStream(), writable: new WritableStream() };
    }
    async createBidirectionalStream() {
      return { readable: new ReadableStream(), writable: new WritableStream() };
    }
    close() {
      at.closed.push(this.place);
    }
  }
  at.opening = openWebTransport({ base, fetch, WebTransport });
  at.opening.catch(() => {});
  return at;
}

describe('a place that nobody told', () => {
  test('is dialled beside the asking, used when it opens first, and remembered', async () => {
    const at = named('https://one.example', 'https://one.example:443/wt');
    await settled();
    assert.deepEqual([at.dialled, at.asked], [['https://one.example:443/wt'], 1]);
    at.arrive['https://one.example:443/wt']();
    await at.opening;
    at.answer();
    await settled();
    assert.deepEqual([at.dialled.length, at.closed], [1, []]);
    assert.equal(known('https://one.example').url, 'https://one.example:443/wt');
  });

  test('is not dialled twice where the server names it', async () => {
    const at = named('https://two.example:8443/', 'https://two.example:8443/wt');
    at.answer();
    await settled();
    at.arrive['https://two.example:8443/wt']();
    await at.opening;
    assert.deepEqual([at.dialled, at.closed], [['https://two.example:8443/wt'], []]);
  });

  test('says nothing where it fails: what the server names is dialled, or its error is the reason', async () => {
    for (const [i, names] of ['https://three.example:4433/wt', null].entries()) {
      const at = named(`https://three${i}.example`, names);
      await settled();
      at.arrive[`https://three${i}.example:443/wt`]();
      await settled();
      assert.equal(at.dialled.length, 1);
      at.answer();
      await settled();
      at.arrive[names]?.();
      if (names) await at.opening;
      else await assert.rejects(at.opening, { code: 'forbidden' });
      assert.deepEqual(at.dialled.slice(1), names ? [names] : []);
    }
  });

  test('is dropped when the server names another or wants nobody, and closed where it opens in the end', async () => {
    for (const [i, names] of ['https://four.example:4433/wt', null].entries()) {
      const guess = `https://four${i}.example:443/wt`;
      const at = named(`https://four${i}.example`, names, [names, guess]);
      at.answer();
      await settled();
      assert.deepEqual(at.dialled, names ? [guess, names] : [guess]);
      let isOpen = false;
      at.opening.then(() => { isOpen = true; }, () => {});
      at.arrive[guess]();
      await settled();
      assert.deepEqual([at.closed, isOpen], [[guess], false]);
      at.arrive[names]?.();
      if (names) await at.opening;
      else await assert.rejects(at.opening, { code: 'forbidden' });
      assert.deepEqual(at.closed, [guess]);
      assert.equal(known(`https://four${i}.example`)?.url, names ?? undefined);
    }
  });

  test('is not guessed again where the server named another, whether that opened or not', async () => {
    const [base, guess, names] = ['https://six.example', 'https://six.example:443/wt', 'https://six.example:4433/wt'];
    const first = named(base, names, []);
    first.answer();
    await settled();
    first.arrive[guess]();
    first.arrive[names]();
    await assert.rejects(first.opening, { code: 'unreachable' });
    const second = named(base, names);
    second.answer();
    await settled();
    assert.deepEqual([first.dialled, second.dialled], [[guess, names], [names]]);
    second.arrive[names]();
    await second.opening;
    assert.equal(known(base).url, names);
  });

  test('is left again where it opened and the server names another in the end, and is not guessed again', async () => {
    const [base, guess, names] = ['https://seven.example', 'https://seven.example:443/wt', 'https://seven.example:4433/wt'];
    const first = named(base, names, [names, guess]);
    await settled();
    first.arrive[guess]();
    await first.opening;
    assert.deepEqual(first.closed, []);
    first.answer();
    await settled();
    assert.deepEqual([first.dialled, first.closed], [[guess], [guess]], 'whoever uses it comes back');
    const second = named(base, names);
    second.answer();
    await settled();
    second.arrive[names]();
    await second.opening;
    assert.deepEqual([second.dialled, second.closed, known(base).url], [[names], [], names]);
  });

  test('is kept where it opened and the server wants nobody else, or says more of the same place', async () => {
    for (const [i, answer] of [null, { certificate_hashes: pinned(7) }].entries()) {
      const guess = `https://eight${i}.example:443/wt`;
      const at = named(`https://eight${i}.example`, answer && guess, [guess], answer ?? {});
      await settled();
      at.arrive[guess]();
      await at.opening;
      at.answer();
      await settled();
      assert.deepEqual([at.dialled, at.closed], [[guess], []]);
      assert.equal(known(`https://eight${i}.example`).url, guess);
    }
  });

  test('is forgotten only by an answer', async () => {
    const at = server();
    await at.open();
    at.reachable = false;
    const { place } = at;
    at.place = null;
    await assert.rejects(at.open(), { code: 'forbidden' });
    assert.deepEqual(known(at.base), place);
  });

  test('an answer that names no place is an error that says so', async () => {
    const at = server();
    at.place = {};
    at.reachable = false;
    await assert.rejects(at.open(), { code: 'unreachable' });
  });

  test('is not guessed where the certificate is one of development', () => {
    const hosts = ['https://localhost', 'https://localhost:8443', 'https://a.localhost:1', 'https://10.78.0.1:8443', 'https://[::1]:8443', 'http://five.example', 'https://name'];
    assert.deepEqual(hosts.map(guessed), hosts.map(() => null));
    assert.equal(guessed('https://a.example/behind/a/path'), null, 'more than one server may be there');
    assert.deepEqual(['https://a.b-c.example', 'https://a.example:1/'].map((base) => guessed(base).url), ['https://a.b-c.example:443/wt', 'https://a.example:1/wt']);
  });
});
