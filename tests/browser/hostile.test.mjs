/**
 * Pages of others, in real browsers, that try to use a development server: whatever they try, they get nothing and change
 * nothing. What they try works, as far as it can, from pages that may.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, channelIn } from '../parity/server.mjs';
import { createAttempts } from './attempts.mjs';
import { launch, until, wanted, within } from './browsers.mjs';

const SECRET = 'for readers only';
const PUBLISHED = 'published by the page';
const NAMES = Object.keys(createAttempts());
/** A name that is not the server's and leads to it all the same, as in DNS rebinding. */
const REBOUND = 'rebound.example';
const RESOLVE = { args: [`--host-resolver-rules=MAP ${REBOUND} 127.0.0.1`], prefs: { 'network.dns.localDomains': REBOUND } };

/** What no page can do: JSON is no image and no script, and a publication is of no other type than JSON. */
const FOR_NOBODY = ['image of /poll', 'script of /poll', 'publishing by form', 'publishing by fetch without CORS'];
/** What gives nothing to a page of another origin, even one that may use the server. */
const FOR_SAME_ORIGIN = ['fetch of /poll without CORS', 'fetch of /sse without CORS', 'frame of /poll', 'script of the client'];
/** What gives the page something to read. */
const READING = ['fetch of /poll', 'fetch of /poll without CORS', 'fetch of /sse without CORS', 'frame of /poll', 'EventSource', 'WebSocket'];

/** A site of others: pages with nothing on them, one of them without an origin of its own. */
async function startSite() {
  const site = createServer((request, response) => {
    if (request.url === '/sandboxed') response.setHeader('content-security-policy', 'sandbox allow-scripts allow-forms');
    response.setHeader('content-type', 'text/html').end('<!doctype html><title>A page</title>');
  });
  site.listen(0, '127.0.0.1');
  await once(site, 'listening');
  return site;
}

/** A channel with something to read, and what an attempt is to know. */
async function prepare(server, headers) {
  const channel = channelIn('event');
  const get = async (path) => (await fetch(server.base + path, { headers })).json();
  const { cursor: after } = await get(`/poll?channel=${channel}`);
  await server.post('/api/publish', { channel, data: SECRET }, headers);
  const { webtransport } = await get('/connect');
  return {
    at: { base: server.base, channel, after, webtransport: { url: webtransport.url, hash: webtransport.certificate_hashes[0].value } },
    held: async () => (await get(`/poll?channel=${channel}&after=${encodeURIComponent(after)}`)).publications.map(({ data }) => data),
    sessions: async () => (await get('/api/stats')).sessions,
  };
}

async function openPage(browser, url) {
  const page = await browser.newPage();
  const response = await page.goto(url);
  await page.evaluate(`window.attempts = (${createAttempts})()`);
  return { page, status: response.status() };
}

/** What an attempt got: `{ got }`, or why it got nothing: `{ failed }`. */
function attempt(page, name, at) {
  const answer = page.evaluate(
    (name, at) => window.attempts[name](at).then((got) => ({ got }), (error) => ({ failed: String(error) })),
    name,
    at,
  );
  return within(`the end of: ${name}`, answer);
}

async function assertRefused(page, name, { at, held, sessions }, over = {}) {
  const before = await sessions();
  const { got, failed } = await attempt(page, name, { ...at, ...over });
  assert.equal(got, undefined, 'the page got something');
  assert.ok(!failed.includes(SECRET), failed);
  assert.deepEqual(await held(), [SECRET], 'nothing was published');
  await until(`no more sessions than ${before}`, sessions, (n) => n <= before);
  return failed;
}

async function assertAllowed(page, name, { at, held }, sameOrigin) {
  const { got, failed } = await attempt(page, name, at);
  if (FOR_NOBODY.includes(name) || (!sameOrigin && FOR_SAME_ORIGIN.includes(name))) {
    assert.equal(got, undefined);
    assert.deepEqual(await held(), [SECRET]);
    if (sameOrigin && name.startsWith('publishing')) assert.match(failed, /bad_content_type/, 'it did come to the server');
    return;
  }
  assert.equal(failed, undefined);
  if (READING.includes(name)) assert.match(got, new RegExp(SECRET));
  assert.deepEqual(await held(), name.startsWith('publishing') ? [SECRET, PUBLISHED] : [SECRET]);
}

for (const name of wanted) {
  describe(name, () => {
    let browser;
    let server;
    let site;
    before(async () => {
      server = await Server.start();
      site = await startSite();
      browser = await launch(name, RESOLVE);
    });
    after(async () => {
      await browser?.close();
      site?.close();
      await server?.stop();
    });

    /** `path` of the site or the server by one of its names. */
    const of = (whose, host, path) => `http://${host}:${whose === 'site' ? site.address().port : new URL(server.base).port}${path}`;

    for (const [what, host, path] of [
      ['another port', '127.0.0.1', '/'],
      ['another port of another name', 'localhost', '/'],
      ['a page without an origin', '127.0.0.1', '/sandboxed'],
      ['another name that leads here', REBOUND, '/'],
    ]) {
      describe(`from ${what}`, () => {
        let page;
        before(async () => {
          ({ page } = await openPage(browser.browser, of('site', host, path)));
        });
        for (const name of NAMES) {
          test(name, async () => {
            await assertRefused(page, name, await prepare(server));
          });
        }
      });
    }

    describe('from the server itself under a name that is not its own', () => {
      let page;
      let status;
      before(async () => {
        ({ page, status } = await openPage(browser.browser, of('server', REBOUND, '/healthz')));
      });
      test('the page', () => assert.equal(status, 421));
      for (const name of NAMES) {
        test(`${name}, by that name`, async () => {
          const failed = await assertRefused(page, name, await prepare(server), { base: of('server', REBOUND, '') });
          if (name.startsWith('fetch')) assert.match(failed, /421.*misdirected/);
        });
        test(`${name}, by the server's own`, async () => {
          await assertRefused(page, name, await prepare(server));
        });
      }
    });

    for (const [what, host] of [['the server', '127.0.0.1'], ['the server by another of its names', 'localhost']]) {
      describe(`from ${what}`, () => {
        let page;
        before(async () => {
          ({ page } = await openPage(browser.browser, of('server', host, '/healthz')));
        });
        for (const name of NAMES) {
          test(name, async () => {
            await assertAllowed(page, name, await prepare(server), host === '127.0.0.1');
          });
        }
      });
    }

    describe('from a server to which that name was given', () => {
      const headers = { authorization: 'Bearer a key that only this test knows' };
      let folder;
      let named;
      let page;
      before(async () => {
        folder = await mkdtemp(join(tmpdir(), 'fulmar-named-'));
        const [configuration, keyFile] = ['fulmar.toml', 'api.key'].map((file) => join(folder, file));
        await writeFile(keyFile, 'a key that only this test knows', { mode: 0o600 });
        await writeFile(configuration, `
hosts = ["${REBOUND}"]
api.key_file = ${JSON.stringify(keyFile)}
namespaces.event = { class = "event", subscribe = true }
`);
        named = await Server.start(['--config', configuration]);
        ({ page } = await openPage(browser.browser, `http://${REBOUND}:${new URL(named.base).port}/healthz`));
      });
      after(async () => {
        await named?.stop();
        await rm(folder, { recursive: true });
      });
      for (const name of READING) {
        test(name, async () => {
          const prepared = await prepare(named, headers);
          prepared.at.base = `http://${REBOUND}:${new URL(named.base).port}`;
          await assertAllowed(page, name, prepared, true);
        });
      }
    });
  });
}
