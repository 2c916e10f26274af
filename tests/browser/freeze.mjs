/** Stops the process that runs a page, and with it all that the page does, as a machine that sleeps does it. */
import { readFile, readdir } from 'node:fs/promises';

/** Processes that run pages, by their command lines. */
const RUNS_PAGES = /-contentproc .* tab $|WebKitWebProcess/;
/** How long a page computes to be known by it. */
const BUSY_MS = 1000;

/** Of `/proc/PID/stat`, behind the name: the parent, and the time that it computed for, in ticks. */
async function statOf(pid) {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8');
  const words = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { parent: Number(words[1]), ticks: Number(words[11]) + Number(words[12]) };
}

/** Those of this process's descendants that run pages, and how much they have computed. */
async function pageProcesses() {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const known = new Map();
  for (const pid of pids) {
    const stat = await statOf(pid).catch(() => null);
    // One that is gone meanwhile is none.
    if (stat) known.set(pid, stat);
  }
  const isOurs = (pid) => pid === process.pid || (known.has(pid) && isOurs(known.get(pid).parent));
  const ours = [...known.keys()].filter(isOurs);
  const runsPages = async (pid) => RUNS_PAGES.test((await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' '));
  const run = await Promise.all(ours.map(runsPages));
  return new Map(ours.filter((_, i) => run[i]).map((pid) => [pid, known.get(pid).ticks]));
}

/** @returns {Promise<() => void>} wakes it */
export async function freeze(page) {
  const before = await pageProcesses();
  await page.evaluate((ms) => {
    const end = performance.now() + ms;
    while (performance.now() < end);
  }, BUSY_MS);
  const computed = [...await pageProcesses()].map(([pid, ticks]) => [ticks - (before.get(pid) ?? ticks), pid]);
  const [[, pid] = []] = computed.sort(([a], [b]) => b - a);
  if (!pid) throw new Error('no process runs the page');
  process.kill(pid, 'SIGSTOP');
  return () => process.kill(pid, 'SIGCONT');
}
