/** A client that the server serves itself knows the place without asking, until it is of no use. */
import assert from 'node:assert/strict';
import { register } from 'node:module';
import { describe, test } from 'node:test';

const PLACE = { webtransport: { url: 'https://served:1/wt' } };
/** As a server does it: the modules of this tree below an address of its own, and its own place among them. */
const serving = `
  const CLIENT = ${JSON.stringify(new URL('../../client/js/', import.meta.url).href)};
  export async function resolve(specifier, context, next) {
    const { href } = new URL(specifier, context.parentURL?.startsWith('http:') ? context.parentURL : 'node:none');
    return href.startsWith('http:') ? { url: href, shortCircuit: true } : next(specifier, context);
  }
  export async function load(url, context, next) {
    if (!url.startsWith('http:')) return next(url, context);
    const { pathname } = new URL(url);
    if (pathname === '/client/place.js') return { format: 'module', source: ${JSON.stringify(`export default ${JSON.stringify(PLACE)}`)}, shortCircuit: true };
    const { source } = await next(CLIENT + pathname.slice('/client/'.length), { ...context, format: 'module' });
    return { format: 'module', source, shortCircuit: true };
  }`;
register(`data:text/javascript,${encodeURIComponent(serving)}`);

/** The client as a page of this server has it; what is remembered is each one's own. @param {string} base */
const client = async (base) => ({
  ...await import(`${base}/client/transports/discover.js`), ...await import(`${base}/client/transports/webtransport.js`),
});

/** @param {(url: string) => boolean} reachable */
const transport = (reachable, dialled = []) => Object.assign(class {
  constructor(url) {
    dialled.push(url);
    this.ready = reachable(url) ? Promise.resolve() : Promise.reject(new Error('refused'));
    this.closed = new Promise(() => {});
    this.datagrams = { readable: new ReadableStream(), writable: new WritableStream() };
  }
  async createBidirectionalStream() {
    return { readable: new ReadableStream(), writable: new WritableStream() };
  }
  close() {}
}, { dialled });

const asks = (place) => {
  const fetch = async () => {
    fetch.asked++;
    return Response.json({ webtransport: place });
  };
  return Object.assign(fetch, { asked: 0 });
};

describe('the place that a server puts beside its client', () => {
  test('is dialled without asking', async () => {
    const base = 'http://own:1';
    const { known, openWebTransport } = await client(base);
    assert.deepEqual([known(base), known(`${base}/`), known('http://own:2'), known(`${base}/sub`)], [PLACE.webtransport, PLACE.webtransport, null, null]);
    const [fetch, WebTransport] = [asks(PLACE.webtransport), transport(() => true)];
    await openWebTransport({ base, fetch, WebTransport });
    assert.deepEqual([fetch.asked, WebTransport.dialled], [0, [PLACE.webtransport.url]]);
  });

  test('is not dialled where another server is meant', async () => {
    const { openWebTransport } = await client('http://own:3');
    const [fetch, WebTransport] = [asks({ url: 'https://other:1/wt' }), transport(() => true)];
    await openWebTransport({ base: 'http://other:3', fetch, WebTransport });
    assert.deepEqual([fetch.asked, WebTransport.dialled], [1, ['https://other:1/wt']]);
  });

  test('is of no use any more when it is elsewhere, or has another certificate', async () => {
    const base = 'http://own:4', moved = { url: 'https://served:2/wt' };
    const { known, openWebTransport } = await client(base);
    const [fetch, WebTransport] = [asks(moved), transport((url) => url === moved.url)];
    for (let i = 0; i < 2; i++) await openWebTransport({ base, fetch, WebTransport });
    assert.deepEqual([fetch.asked, WebTransport.dialled], [1, [PLACE.webtransport.url, moved.url, moved.url]]);
    assert.deepEqual(known(base), moved);
  });
});
