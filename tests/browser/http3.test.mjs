/**
 * HTTP/3 as browsers come to it: a page over TCP, whose answers name QUIC's port in Alt-Svc, and a certificate that the
 * browser trusts by its chain.
 *
 * Chromium and Firefox go to HTTP/3 only where the chain ends in a public root. Chromium makes an exception for the hosts of
 * origins that it is to reach by QUIC always; the one named here is QUIC's own port, where no page is, so that pages
 * still learn of HTTP/3 by Alt-Svc alone. Firefox has a preference.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { readFile, writeFile } from 'node:fs/promises';
import http2 from 'node:http2';
import https from 'node:https';
import { join } from 'node:path';
import { Server, channelIn } from '../parity/server.mjs';
import { launch, until, wanted, within } from './browsers.mjs';
import { makeCertificates } from './certificates.mjs';

const KEY = 'a key that only this test knows';
const CONFIGURATION = (keyFile) => `
[api]
key_file = ${JSON.stringify(keyFile)}

[namespaces.event]
class = "event"
subscribe = true
publish = true

[namespaces.state]
class = "state"
subscribe = true
`;

const certificates = await makeCertificates();
const [configuration, keyFile] = ['fulmar.toml', 'api.key'].map((file) => join(certificates.folder, file));
await writeFile(keyFile, KEY, { mode: 0o600 });
await writeFile(configuration, CONFIGURATION(keyFile));
const server = await Server.start(['--config', configuration, '--tls-cert', certificates.certificate, '--tls-key', certificates.key]);
const ca = await readFile(certificates.root);

after(async () => {
  await server.stop();
  await certificates.remove();
});

function overHttp1(path) {
  const answer = new Promise((resolve, reject) => {
    const request = https.get(server.base + path, { ca, agent: false }, async (response) => {
      resolve({ headers: response.headers, body: Buffer.concat(await response.toArray()).toString() });
    });
    request.once('error', reject);
  });
  return within(`${path} over HTTP/1.1`, answer);
}

function overHttp2(path) {
  const session = http2.connect(server.base, { ca });
  const answer = new Promise((resolve, reject) => {
    session.once('error', reject);
    session.request({ ':path': path }).once('error', reject).once('response', (headers) => resolve({ headers })).resume();
  });
  return within(`${path} over HTTP/2`, answer).finally(() => session.destroy());
}

const quic = new URL(JSON.parse((await overHttp1('/connect')).body).webtransport.url);

describe('Alt-Svc', () => {
  test('names the port of QUIC on a sidecar with TLS', async () => {
    for (const { headers } of [await overHttp1('/healthz'), await overHttp2('/healthz')]) {
      assert.match(headers['alt-svc'] ?? '(none)', new RegExp(`^h3=":${quic.port}"; ma=\\d+$`));
    }
  });

  test('is not sent by a plain sidecar', async () => {
    const plain = await Server.start();
    try {
      const { headers } = await fetch(`${plain.base}/healthz`);
      assert.equal(headers.get('alt-svc'), null);
    } finally {
      await plain.stop();
    }
  });
});

/** What the tests call in a page. */
function helpers(key) {
  window.protocolOf = (path) => new Promise((resolve) => {
    const observer = new PerformanceObserver((list) => {
      const [entry] = list.getEntriesByName(new URL(path, location).href);
      if (!entry) return;
      observer.disconnect();
      resolve(entry.nextHopProtocol);
    });
    observer.observe({ type: 'resource', buffered: true });
  });
  window.ask = async (path, options) => {
    const response = await fetch(path, options);
    const text = await response.text();
    return { status: response.status, text, protocol: await window.protocolOf(path) };
  };
  window.publish = (path, channel, data, authorization = `Bearer ${key}`) => window.ask(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization },
    body: JSON.stringify({ channel, data }),
  });
}

/** A page that was opened by HTTP/3, after one that was not has told the browser of it. */
async function openPage(browser) {
  const page = await browser.newPage();
  const protocolOfPage = () => page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol);
  await page.goto(`${server.base}/healthz`);
  await page.evaluate(helpers, KEY);
  assert.equal(await protocolOfPage(), 'h2', 'the first page comes over TCP');
  let n = 0;
  const ask = () => page.evaluate((path) => {
    performance.clearResourceTimings();
    return window.ask(path);
  }, `/healthz?${n++}`);
  await until('a request over HTTP/3', ask, ({ protocol }) => protocol === 'h3');
  await page.goto(`${server.base}/healthz?again`);
  await page.evaluate(helpers, KEY);
  assert.equal(await protocolOfPage(), 'h3', 'the next page');
  return page;
}

const TRUST = {
  root: certificates.root,
  args: [`--origin-to-force-quic-on=${quic.host}`],
  prefs: { 'network.http.http3.disable_when_third_party_roots_found': false },
};

for (const name of wanted) {
  describe(name, () => {
    let browser;
    let page;
    before(async () => {
      browser = await launch(name, TRUST);
      page = await openPage(browser.browser);
    });
    after(() => browser?.close());

    test('/connect', async () => {
      const { status, text, protocol } = await page.evaluate(() => window.ask('/connect'));
      assert.deepEqual({ status, protocol }, { status: 200, protocol: 'h3' });
      const { webtransport, sse, poll } = JSON.parse(text);
      assert.equal(webtransport.url, quic.href);
      assert.deepEqual([sse.url, poll.url], [`${server.base}/sse`, `${server.base}/poll`]);
    });

    test('publishing', async () => {
      const channel = channelIn('event');
      const refused = await page.evaluate((channel) => window.publish('/api/publish?refused', channel, 1, 'Bearer wrong'), channel);
      assert.deepEqual([refused.status, refused.protocol], [401, 'h3']);
      const taken = await page.evaluate((channel) => window.publish('/api/publish?taken', channel, 1), channel);
      assert.deepEqual([taken.status, taken.protocol, JSON.parse(taken.text).offset], [200, 'h3', 1]);
    });

    test('a poll that waits', async () => {
      const channel = channelIn('event');
      const { waited, published } = await within('the end of the poll', page.evaluate(async (channel) => {
        const path = `/poll?channel=${channel}`;
        const { cursor } = JSON.parse((await window.ask(path)).text);
        const waiting = window.ask(`${path}&wait=20&after=${encodeURIComponent(cursor)}`);
        const published = await window.publish('/api/publish?poll', channel, 'waited for');
        return { waited: await waiting, published };
      }, channel));
      assert.deepEqual([waited.status, waited.protocol, published.status], [200, 'h3', 200]);
      assert.deepEqual(JSON.parse(waited.text).publications.map(({ data }) => data), ['waited for']);
    });

    test('EventSource', async () => {
      const channel = channelIn('event');
      const { heard, protocol } = await within('what was published, by EventSource', page.evaluate(async (channel) => {
        const path = `/sse?channel=${channel}`;
        const source = new EventSource(path);
        await new Promise((resolve, reject) => {
          source.onopen = resolve;
          source.onerror = () => reject(new Error('the EventSource failed'));
        });
        const heard = [];
        const all = new Promise((resolve) => {
          source.onmessage = ({ data }) => {
            heard.push(JSON.parse(data).data);
            if (heard.length === 3) resolve();
          };
        });
        for (const n of [1, 2, 3]) await window.publish(`/api/publish?sse${n}`, channel, n);
        await all;
        source.close();
        return { heard, protocol: await window.protocolOf(path) };
      }, channel));
      assert.deepEqual(heard, [1, 2, 3]);
      assert.equal(protocol, 'h3');
    });

    test('WebTransport, trusted by its chain', async () => {
      const channel = channelIn('event');
      const heard = await within('what was published over WebTransport', page.evaluate(async (channel) => {
        const { discover, open } = await import('/client/fulmar.js');
        const { webtransport } = await discover({ base: location.origin });
        if (webtransport.certificate_hashes.length > 0) throw new Error('there are hashes to pin');
        return new Promise((resolve, reject) => {
          open('webtransport', { onmessage: resolve }).then(async (connection) => {
            await connection.subscribe(channel);
            await connection.publish(channel, { data: 'by stream' });
          }).catch(reject);
        });
      }, channel));
      assert.equal(heard.data, 'by stream');
    });

    test('is not trusted without its root', async () => {
      const { root, ...how } = TRUST;
      const stranger = await launch(name, how);
      try {
        const page = await stranger.browser.newPage();
        await assert.rejects(page.goto(`${server.base}/healthz`), /CERT|SEC_ERROR|certificate|issuer/i);
      } finally {
        await stranger.close();
      }
    });
  });
}
