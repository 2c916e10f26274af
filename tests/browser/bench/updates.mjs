/** How a page keeps up with many updates of state: what it applies, and for how long its thread is taken. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Server, channelIn } from '../../parity/server.mjs';
import { launch, within } from '../browsers.mjs';
import { progress, putClient, table } from './figures.mjs';

const CHANNELS = 4;
const KEYS = 250;
/** Of each key, in a second. */
const RATE = 20;
/** What passes before anything is measured: the snapshot, and a thread that has not run this code before. */
const SETTLE_MS = 3000;
const ROWS = [
  { name: 'nothing read', transports: null },
  { name: 'WebTransport', transports: ['webtransport'] },
  { name: 'WebSocket', transports: ['websocket'] },
];

/** @param {{browsers: string[], seconds: number}} options */
export async function measureUpdates({ browsers, seconds }) {
  const server = await Server.start();
  const channels = Array.from({ length: CHANNELS }, () => channelIn('state'));
  const order = JSON.stringify({ base: server.base, channels, keys: KEYS, rate: RATE });
  const publisher = fork(fileURLToPath(new URL('publisher.mjs', import.meta.url)), [order]);
  const gone = once(publisher, 'exit').then(([code]) => { throw new Error(`the publisher ended with ${code}`); });
  gone.catch(() => {});
  const ask = async () => {
    const answer = once(publisher, 'message');
    if (publisher.connected) publisher.send('count');
    return (await within('the count of publications', Promise.race([answer, gone])))[0];
  };
  const rows = [];
  try {
    await within('the first publications', Promise.race([once(publisher, 'message'), gone]));
    for (const name of browsers) {
      const { browser, close } = await launch(name);
      try {
        for (const row of ROWS) {
          progress(`updates: ${name}, ${row.name}, ${seconds} s`);
          const measured = await measure(name, browser, server.base, row.transports, channels, seconds, ask);
          rows.push({ browser: name, name: row.name, ...measured });
        }
      } finally {
        await close();
      }
    }
  } finally {
    progress('');
    publisher.removeAllListeners('exit');
    publisher.kill();
    await server.stop();
  }
  report(rows, seconds);
}

async function measure(name, browser, base, transports, channels, seconds, ask) {
  const page = await browser.newPage();
  try {
    // Chromium runs a page that nobody looks at more slowly.
    await page.bringToFront();
    await page.goto(`${base}/healthz`);
    await putClient(page);
    await within('the snapshots', page.evaluate(prepare, transports, channels));
    await page.evaluate((ms) => new Promise((resolve) => { setTimeout(resolve, ms); }), SETTLE_MS);
    // Chromium alone tells.
    const cpu = async () => (name === 'chromium' ? page.metrics() : null);
    const [before, cpuBefore] = [await ask(), await cpu()];
    const figures = await within('the figures', page.evaluate(watch, seconds * 1000), (seconds + 60) * 1000);
    const [after, cpuAfter] = [await ask(), await cpu()];
    return {
      ...figures,
      published: (after.published - before.published) / (after.at - before.at) * 1000,
      cpu: cpuBefore && cpuAfter ? (cpuAfter.TaskDuration - cpuBefore.TaskDuration) / (cpuAfter.Timestamp - cpuBefore.Timestamp) : null,
    };
  } finally {
    await page.close();
  }
}

/** In the page: holds the channels, and counts what changes. */
async function prepare(transports, channels) {
  globalThis.changes = 0;
  globalThis.ages = [];
  if (!transports) return;
  const client = globalThis.fulmar.connect(undefined, { transports });
  globalThis.client = client;
  globalThis.states = channels.map((name) => {
    const state = client.state(name);
    state.onChange(({ time }) => {
      // One in a hundred tells how old they are.
      if (globalThis.changes++ % 100 === 0) globalThis.ages.push(Date.now() - time);
    });
    return state;
  });
  await Promise.all(globalThis.states.map(({ ready }) => ready));
}

/** In the page: what happens in this time. */
async function watch(ms) {
  const { client } = globalThis;
  const began = performance.now();
  const before = client?.stats().publications ?? 0;
  globalThis.changes = 0;
  globalThis.ages = [];

  const tasks = [];
  const supported = PerformanceObserver.supportedEntryTypes.includes('longtask');
  const note = (list) => tasks.push(...list.filter(({ startTime }) => startTime >= began).map(({ duration }) => duration));
  const observer = supported ? new PerformanceObserver((list) => note(list.getEntries())) : null;
  observer?.observe({ type: 'longtask' });

  // The turns of a channel of messages, one after the other with a pause, in which the thread may do something else. What is
  // beyond the pause is how long the thread was not free.
  const gaps = [];
  const { port1, port2 } = new MessageChannel();
  await new Promise((resolve) => {
    let last = performance.now();
    port1.onmessage = () => {
      const now = performance.now();
      gaps.push(now - last);
      last = now;
      if (now - began > ms) resolve();
      else setTimeout(() => port2.postMessage(null), 4);
    };
    port2.postMessage(null);
  });
  const took = performance.now() - began;
  const changes = globalThis.changes;
  const seen = (client?.stats().publications ?? 0) - before;
  if (observer) {
    // Entries are told late.
    await new Promise((resolve) => { setTimeout(resolve, 200); });
    note(observer.takeRecords());
    observer.disconnect();
  }
  port1.close();
  const ages = globalThis.ages.sort((a, b) => a - b);
  const sum = globalThis.states?.reduce((keys, { size }) => keys + size, 0) ?? 0;
  const result = {
    seen: seen / took * 1000,
    changes: changes / took * 1000,
    keys: sum,
    transport: client?.transport ?? null,
    reconnects: client?.reconnects ?? 0,
    age: ages.length ? [0.5, 0.99].map((share) => ages[Math.floor(ages.length * share)]) : null,
    gap: Math.max(...gaps),
    longGaps: gaps.filter((gap) => gap > 50).length,
    tasks: supported ? { longest: Math.max(0, ...tasks), count: tasks.length } : null,
  };
  client?.close();
  return result;
}

function report(rows, seconds) {
  console.log(`\nUpdates of state: ${CHANNELS} channels of ${KEYS} keys, each ${RATE} times a second, over ${seconds} s`);
  const head = ['', 'published/s', 'seen/s', 'changes/s', 'age ms p50', 'p99', 'tasks > 50 ms', 'longest', 'gaps > 50 ms', 'longest', 'CPU'];
  const whole = (value) => (value === null || value === undefined ? '–' : value.toFixed(0));
  console.log(table([head, ...rows.map((row) => [
    `${row.browser}, ${row.name}${row.reconnects ? ` (${row.reconnects} reconnects!)` : ''}`,
    whole(row.published), row.transport ? whole(row.seen) : '–', row.transport ? whole(row.changes) : '–',
    whole(row.age?.[0]), whole(row.age?.[1]), whole(row.tasks?.count), row.tasks?.count === 0 ? '–' : whole(row.tasks?.longest), whole(row.longGaps), whole(row.gap),
    row.cpu === null ? '–' : `${(row.cpu * 100).toFixed(0)} %`,
  ])]));
  console.log('tasks: by PerformanceObserver, in ms, where the browser tells; gaps: between turns of the thread, 4 ms apart where it is free; '
    + 'CPU: of the page\'s thread, where the browser tells');
}
