/**
 * The core cases of the Autobahn suite against the WebSockets of the server.
 *
 *   node tests/autobahn/run.mjs ECHO WSTEST    the programs: echo.rs, and the suite's own
 *
 * AUTOBAHN_CASES names some of the cases while working on them: AUTOBAHN_CASES='6.4.*,7.*'
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { env } from 'node:process';
import { createInterface } from 'node:readline';

const SECTIONS = ['1.*', '2.*', '3.*', '4.*', '5.*', '6.*', '7.*', '10.*'];
/** Of those sections. Were it less, the suite would have skipped some. */
const COUNT = 247;
const PASSING = ['OK', 'NON-STRICT', 'INFORMATIONAL'];
const START_DEADLINE = 15_000;
const SUITE_DEADLINE = 300_000;

const [echo, wstest] = process.argv.slice(2);
const some = env.AUTOBAHN_CASES?.split(',');

function within(deadline, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${deadline} ms`)), deadline);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function start(program, args, stdout) {
  const child = spawn(program, args, { stdio: ['ignore', stdout, 'inherit'], env: { ...env, PYTHONWARNINGS: 'ignore' } });
  const ended = new Promise((resolve, reject) => {
    child.once('exit', (code, signal) => resolve(code ?? signal));
    child.once('error', reject);
  });
  return { child, ended };
}

/** @param {Promise<never>} gone rejects when there is no server any more */
async function runSuite(url, folder, gone) {
  const spec = join(folder, 'spec.json');
  await writeFile(spec, JSON.stringify({
    outdir: join(folder, 'reports'),
    servers: [{ agent: 'fulmar', url }],
    cases: some ?? SECTIONS,
    'exclude-cases': [],
    'exclude-agent-cases': {},
  }));
  const suite = start(wstest, ['-m', 'fuzzingclient', '-s', spec], 'ignore');
  try {
    const status = await within(SUITE_DEADLINE, 'the end of the suite', Promise.race([suite.ended, gone]));
    if (status !== 0) throw new Error(`${wstest} ended with ${status}`);
  } finally {
    suite.child.kill();
  }
  return JSON.parse(await readFile(join(folder, 'reports', 'index.json'), 'utf8')).fulmar;
}

/** Prints what came of the cases; whether all passed. */
async function report(cases, folder) {
  const names = Object.keys(cases).sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  const counts = {};
  let failed = 0;
  for (const name of names) {
    const { behavior, behaviorClose, reportfile } = cases[name];
    counts[behavior] = (counts[behavior] ?? 0) + 1;
    const passed = PASSING.includes(behavior) && PASSING.includes(behaviorClose);
    if (!passed) failed += 1;
    // Two pass as NON-STRICT, 6.4.3 and 6.4.4: tungstenite looks at the UTF-8 of a frame when it has all of it, not before.
    if (behavior === 'OK' && behaviorClose === 'OK') continue;
    const { description, result, resultClose } = JSON.parse(await readFile(join(folder, 'reports', reportfile), 'utf8'));
    console.log(`${passed ? 'passed' : 'FAILED'} ${name} ${behavior}, close ${behaviorClose}: ${description.split('<br>')[0].trim()}`);
    console.log(`       ${result} / ${resultClose}`);
  }
  const verdicts = Object.entries(counts).map(([behavior, n]) => `${n} ${behavior}`);
  console.log(`${names.length} cases: ${verdicts.join(', ')}; ${failed} failed`);
  if (!some && names.length !== COUNT) {
    console.log(`FAILED: there should be ${COUNT} cases`);
    failed += 1;
  }
  return failed === 0;
}

const folder = await mkdtemp(join(tmpdir(), 'autobahn-'));
const server = start(echo, [], 'pipe');
try {
  const line = new Promise((resolve) => createInterface({ input: server.child.stdout }).once('line', resolve));
  const gone = server.ended.then((status) => { throw new Error(`${echo} ended with ${status}`); });
  gone.catch(() => {});
  const url = await within(START_DEADLINE, `the URL of ${echo}`, Promise.race([line, gone]));
  if (!await report(await runSuite(url, folder, gone), folder)) process.exitCode = 1;
} finally {
  server.child.kill();
  await rm(folder, { recursive: true });
}
