/**
 * Time to the first message over a wire of 40 ms: `measureFirst` lays it and starts this program behind it, where the
 * browsers are.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { open } from '../../../client/js/fulmar.js';
import { QuietWebSocket } from '../../parity/websocket.mjs';
import { launch, within } from '../browsers.mjs';
import { makeCertificates } from '../certificates.mjs';
import { Network, SERVER, blockUdp } from './network.mjs';
import { median, progress, putClient, table } from './figures.mjs';

const HTTP = `${SERVER}:8443`;
const QUIC = `${SERVER}:4433`;
const BASE = `https://${HTTP}`;
/** Where a page comes from that has no connection to the server yet. */
const ELSEWHERE = `${SERVER}:9443`;
/** As in production: a name, and QUIC at the port of HTTP. */
const NAME = 'fulmar.example';
const NAMED = `https://${NAME}:7443`;
const CHANNEL = 'state:first';
const CONFIGURATION = `
hosts = ["${SERVER}", "${NAME}"]
origins = ["https://${ELSEWHERE}"]

[namespaces.state]
class = "state"
subscribe = true
publish = true
`;

const TRANSPORTS = [
  { name: 'WebTransport', transports: ['webtransport'] },
  { name: 'wss', transports: ['websocket'] },
  { name: 'all, UDP blocked', blocked: true },
];
/** A page of the server's own brings a connection along, over which HTTP/2 carries a WebSocket at once, and the client. */
const PAGES = [{ from: BASE, label: 'own page' }, { from: `https://${ELSEWHERE}`, label: 'other page' },
  { from: `https://${ELSEWHERE}`, to: NAMED, label: 'other page, by name' }];
const CASES = PAGES.flatMap(({ from, to = BASE, label }) => TRANSPORTS.map((it) => ({ ...it, from, to, label, name: `${label}, ${it.name}` })));
const VISITS = ['first visit', 'second visit'];

/** @param {{binary: string, browsers: string[], rounds: number, rtt: number}} options */
export async function measureFirst({ binary, browsers, rounds, rtt }) {
  const certificates = await makeCertificates([`IP:${SERVER}`, `DNS:${NAME}`]);
  let network;
  const end = async () => {
    await network?.remove();
    await certificates.remove();
  };
  const interrupted = () => end().finally(() => process.exit(130));
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    network = await Network.build();
    const configuration = join(certificates.folder, 'fulmar.toml');
    await writeFile(configuration, CONFIGURATION);
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('FULMAR_')));
    for (const [http, quic] of [[HTTP, QUIC], [ELSEWHERE, `${SERVER}:5433`], [`${SERVER}:7443`, `${SERVER}:7443`]]) {
      await network.ready('server', [binary, 'serve', '--http', http, '--quic', quic, '--config', configuration,
        '--tls-cert', certificates.certificate, '--tls-key', certificates.key], { env });
    }
    // Half of the round trip in either direction, in µs; nothing is lost.
    await network.ready('wire', [binary, 'bench', 'wire', 'server', 'client', String(rtt * 500), '1'], { env });
    const out = join(certificates.folder, 'visits.json');
    const order = JSON.stringify({ browsers, rounds, root: certificates.root, server: network.name('server'), out });
    const child = network.start('client', [process.execPath, fileURLToPath(import.meta.url), order], {
      env: { ...process.env, NODE_EXTRA_CA_CERTS: certificates.root }, stdio: ['ignore', 'inherit', 'inherit'],
    });
    const [code] = await once(child, 'exit');
    if (code !== 0) throw new Error(`the visits ended with ${code}`);
    report(JSON.parse(await readFile(out, 'utf8')), { browsers, rounds, rtt });
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
    await end();
  }
}

function report(visits, { browsers, rounds, rtt }) {
  const ms = (values) => (values.length ? median(values).toFixed(0) : '–');
  console.log(`\nTime to first message, ms from connect() to the first value of a channel, at ${rtt} ms round trip, ${rounds} times each`);
  const rows = [['', 'median', 'least', 'most', '/connect', 'open after', 'by']];
  for (const browser of browsers) {
    for (const { name } of CASES) {
      for (const visit of VISITS) {
        const these = visits.filter((it) => it.browser === browser && it.name === name && it.visit === visit);
        const times = these.map(({ ms }) => ms);
        rows.push([
          `${browser}, ${name}, ${visit}`, ms(times), Math.min(...times).toFixed(0), Math.max(...times).toFixed(0),
          ms(these.flatMap(({ connect }) => connect?.ms ?? [])), ms(these.flatMap(({ opened }) => opened ?? [])),
          [...new Set(these.map(({ transport, connect }) => [transport, connect?.protocol].filter(Boolean).join(' after ')))].join(', '),
        ]);
      }
    }
  }
  console.log(table(rows));
  for (const browser of browsers) {
    for (const visit of VISITS) {
      for (const { label } of PAGES) {
        const these = visits.filter((it) => it.browser === browser && it.visit === visit);
        const of = (wanted) => median(these.filter(({ name }) => name === `${label}, ${wanted}`).map(({ ms }) => ms));
        const [webtransport, wss, blocked] = TRANSPORTS.map(({ name }) => of(name));
        console.log(`${browser}, ${label}, ${visit}: WebTransport ${signed(webtransport - wss)} ms beside wss (wanted: at most 0); `
          + `with UDP blocked ${signed(blocked - wss)} ms (wanted: at most 700)`);
      }
    }
  }
}

const signed = (ms) => `${ms < 0 ? '−' : '+'}${Math.abs(ms).toFixed(0)}`;

// ---- behind the wire --------------------------------------------------------------------------------------------------

/** In a page that has the client. */
async function firstMessage(base, transports, channel) {
  performance.clearResourceTimings();
  const { connect } = globalThis.fulmar;
  const began = performance.now();
  const client = connect(base, transports ? { transports } : {});
  try {
    const at = await new Promise((resolve, reject) => {
      client.subscribe(channel, { onPublication: () => resolve(performance.now()) });
      client.addEventListener('close', ({ detail }) => reject(new Error(JSON.stringify(detail))));
      setTimeout(() => reject(new Error(`no message: ${JSON.stringify(client.attempts)}`)), 20_000);
    });
    const [asked] = performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/connect'));
    const { transport, attempts } = client;
    return {
      ms: at - began,
      transport,
      opened: attempts.find((attempt) => attempt.transport === transport)?.ms,
      connect: asked && { ms: asked.duration, protocol: asked.nextHopProtocol },
    };
  } finally {
    client.close();
  }
}

async function visit(context, { from, to, transports }) {
  const page = await context.newPage();
  try {
    await page.goto(`${from}/healthz`);
    // A page of the server's has its client, which brings the place along; another has the one of the package.
    if (from === BASE) await page.evaluate(async () => { globalThis.fulmar = await import('/client/fulmar.js'); });
    else await putClient(page);
    return await within('the first message', page.evaluate(firstMessage, to, transports ?? null, CHANNEL));
  } finally {
    await page.close();
  }
}

async function main({ browsers, rounds, root, server, out }) {
  for (const base of [BASE, `https://${SERVER}:7443`]) {
    const publisher = await open('websocket', { base, WebSocket: QuietWebSocket });
    await publisher.publish(CHANNEL, { data: 'hello' });
    publisher.close();
  }
  const running = [];
  const visits = [];
  try {
    for (const name of browsers) {
      running.push({ name, ...await launch(name, {
        root,
        args: [`--origin-to-force-quic-on=${QUIC},${NAME}:4433`, `--host-resolver-rules=MAP ${NAME} ${SERVER}`],
        prefs: { 'network.http.http3.disable_when_third_party_roots_found': false, 'network.dns.forceResolve': SERVER },
      }) });
    }
    for (let round = 0; round < rounds; round++) {
      for (const { name: browser, browser: instance } of running) {
        for (const one of CASES) {
          progress(`time to first message: round ${round + 1} of ${rounds}, ${browser}, ${one.name}`);
          // Where nothing is known or remembered; the second visit knows what the first has left.
          const context = await instance.createBrowserContext();
          if (one.blocked) await blockUdp(server, true);
          try {
            for (const which of VISITS) visits.push({ browser, name: one.name, visit: which, ...await visit(context, one) });
          } finally {
            if (one.blocked) await blockUdp(server, false);
            await context.close();
          }
        }
      }
    }
  } finally {
    for (const { close } of running) await close();
    progress('');
  }
  await writeFile(out, JSON.stringify(visits));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(JSON.parse(process.argv[2]));
