/**
 * Every snippet of client/js/README.md, run as it stands there, and those of the README of the whole. A block's name follows its language; all that is changed is
 * where the server and the page are.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { WebSocket } from 'ws';
import { connect } from '../../client/js/fulmar.js';
import { Server } from '../parity/server.mjs';
import { launch, until, wanted, within } from './browsers.mjs';

const run = promisify(execFile);
const CLIENT = fileURLToPath(new URL('../../client/js', import.meta.url));
const MODULES = dirname(dirname(fileURLToPath(import.meta.resolve('ws'))));

const text = await readFile(join(CLIENT, 'README.md'), 'utf8');
/** @type {Map<string, string>} by name */
const blocks = new Map([...text.matchAll(/^```(?:jsx|js|html|toml) ?(.*)\n([^]*?)^```$/gm)].map(([, name, code]) => [name, code]));
/** Shows the component, each of whose effects is ended and begun anew once. */
const SHOW = `
  import { StrictMode } from 'react';
  import { createRoot } from 'react-dom/client';
  createRoot(document.body).render(<StrictMode><Players /></StrictMode>);
`;

/** Those of the README of the whole, in their order. */
const [IMPORTED, SOURCE, LIVE, ...MORE] = [...(await readFile(join(CLIENT, '../../README.md'), 'utf8'))
  .matchAll(/^```js\n([^]*?)^```$/gm)].map(([, code]) => code);

/** What those need that go on from `client`. */
const BEGIN = (base) => `
  import { WebSocket } from 'ws';
  import { connect } from 'fulmar';
  const client = connect(${JSON.stringify(base)}, { WebSocket });
  await client.ready;
`;

let server;
let developing;
let site;
let folder;
let files;

before(async () => {
  // A page of another origin: where it is has to be known before the server starts, and the other way round.
  site = createServer(({ url }, response) => {
    const [body, type] = files.get(url) ?? ['<!doctype html><title>Nothing</title>', 'text/html'];
    response.writeHead(200, { 'content-type': `${type}; charset=utf-8` }).end(body);
  });
  await new Promise((resolve) => site.listen(0, 'localhost', resolve));
  site.base = `http://localhost:${site.address().port}`;

  folder = await mkdtemp(join(tmpdir(), 'fulmar-readme-'));
  await writeFile(join(folder, 'package.json'), '{"name": "app", "private": true, "type": "module"}');
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', CLIENT], { cwd: folder });
  await mkdir(join(folder, 'node_modules'), { recursive: true });
  for (const name of ['ws', 'react', 'react-dom']) await symlink(join(MODULES, name), join(folder, 'node_modules', name));

  await writeFile(join(folder, 'fulmar.toml'), blocks.get('fulmar.toml').replaceAll('http://localhost:3000', site.base));
  [server, developing] = await Promise.all([Server.start(['--config', join(folder, 'fulmar.toml')]), Server.start()]);

  const worker = `<!doctype html><script type="module">${blocks.get('starts-worker.js')}</script>`;
  files = new Map([
    ['/chat', [placed('index.html'), 'text/html']],
    ['/bundled', ['<!doctype html><script type="module" src="/bundle.js"></script>', 'text/html']],
    ['/bundle.js', [await bundled(placed('main.js')), 'text/javascript']],
    ['/react', ['<!doctype html><body><script type="module" src="/react.js"></script>', 'text/html']],
    ['/react.js', [await bundled(placed('players.jsx') + SHOW), 'text/javascript']],
    ['/works', [worker, 'text/html']],
    ['/worker.js', [placed('worker.js'), 'text/javascript']],
  ]);
});

after(async () => {
  site?.close();
  await Promise.all([server?.stop(), developing?.stop(), folder && rm(folder, { recursive: true, force: true })]);
});

/** A block, with the address at which the server is. @param {string} name */
const placed = (name) => blocks.get(name).replaceAll('http://127.0.0.1:8080', server.base);

/** What a bundler makes of it. @param {string} contents @returns {Promise<string>} */
async function bundled(contents) {
  const { outputFiles: [{ text: bundle }] } = await build({
    stdin: { contents, resolveDir: folder, loader: 'jsx' },
    jsx: 'automatic', bundle: true, write: false, format: 'esm', target: 'es2022', logLevel: 'error',
  });
  return bundle;
}

/** What was said one by one, and a wait for something to be. */
class Said {
  #all = [];
  #looks = new Set();

  push(one) {
    this.#all.push(one);
    for (const look of this.#looks) look();
  }

  /** @param {string} what @param {(one: any) => boolean} good @returns {Promise<void>} settled when something good was said */
  has(what, good) {
    const found = new Promise((resolve) => {
      const look = () => this.#all.some(good) && resolve(this.#looks.delete(look));
      this.#looks.add(look);
      look();
    });
    return within(what, found).catch((error) => { throw new Error(`${error.message}: ${this.#all.join('\n')}`); });
  }
}

/** Says something again and again until the test is over, since who comes later has not heard what was said before. */
function keepSaying(t, client, data) {
  const speaking = setInterval(() => client.publish('chat:lobby', data).catch(() => {}), 100);
  t.after(() => clearInterval(speaking));
}

/** A client from outside, closed when the test is over. */
async function elsewhere(t) {
  const client = connect(server.base, { WebSocket });
  t.after(() => client.close());
  await client.ready;
  return client;
}

test('every block has a test', () => {
  const inBrowsers = ['console', 'index.html', 'main.js', 'players.jsx', 'worker.js', 'starts-worker.js'];
  const inNode = ['watch.mjs', 'subscribe', 'iterate', 'state', 'publish', 'transports', 'observe', 'errors'];
  assert.deepEqual([...blocks.keys()].sort(), [...inBrowsers, ...inNode, 'fulmar.toml'].sort());
});

for (const name of wanted) {
  describe(`snippets in ${name}`, () => {
    let browser;
    let close;
    before(async () => ({ browser, close } = await launch(name)));
    after(() => close?.());

    /** A page, and what it has written to the console. */
    async function open(url) {
      const page = await browser.newPage();
      const said = new Said();
      page.on('console', (message) => said.push(message.text()));
      page.on('pageerror', (error) => said.push(`error: ${error.message}`));
      await page.goto(url);
      return { page, said };
    }

    test('in the console of a page of the server', async () => {
      const { page, said } = await open(`${developing.base}/healthz`);
      await page.evaluate(`(async () => { ${blocks.get('console')} })()`);
      await said.has('what was published', (line) => line === 'hello');
    });

    test('in the README of the whole', async () => {
      assert.equal(MORE.length, 0, 'each has to be run here');
      const { page, said } = await open(`${developing.base}/healthz`);
      await page.addScriptTag({ type: 'module', content: await bundled(IMPORTED) });
      await said.has('what was published', (line) => line === 'hello');
      await page.evaluate(`(async () => { ${LIVE} })()`);
      await said.has('a value', (line) => line.startsWith('x '));
      await page.evaluate(SOURCE);
      await until('an open event stream', () => page.evaluate('events.readyState'), (state) => state === 1);
      await developing.publish('event:hello', { data: 'hello' });
      await said.has('an event and its cursor', (line) => / [0-9a-f]{16}\.\S+$/.test(line));
    });

    test('a page of one\'s own', async () => {
      const pages = await Promise.all([open(`${site.base}/chat`), open(`${site.base}/chat`)]);
      const [{ page: first }, { page: second }] = pages;
      const lines = (page) => () => page.evaluate(() => [...document.querySelectorAll('li')].map(({ textContent }) => textContent));
      // What was said before a page was there is not for it, so one speaks until both hear.
      let n = 0;
      const both = async () => [await lines(first)(), await lines(second)()];
      await until('a word on both', async () => {
        await first.evaluate((text) => {
          document.querySelector('input').value = text;
          document.querySelector('button').click();
        }, `word ${n++}`);
        return both();
      }, (heard) => heard.every(({ length }) => length));
      await until('the last word on both', both, (heard) => heard.every((words) => words.at(-1) === `word ${n - 1}`));
    });

    test('with a bundler', async (t) => {
      const { said } = await open(`${site.base}/bundled`);
      await said.has('the page\'s own player', (line) => line.startsWith('ada '));
      const client = await elsewhere(t);
      await client.publish('players:game-7', { x: 0, y: 0 }, { key: name });
      // One that came and left between two looks was never there.
      await said.has('another that comes', (line) => line.startsWith(`${name} `));
      await client.remove('players:game-7', name);
      await said.has('another that leaves', (line) => line === `${name} left`);
    });

    test('in React', async (t) => {
      const client = await elsewhere(t);
      const { page } = await open(`${site.base}/react`);
      const items = () => page.evaluate(() => [...document.querySelectorAll('li')].map(({ textContent }) => textContent));
      const one = `of ${name}`;
      await client.publish('players:game-7', { x: 1, y: 2 }, { key: one });
      await until('a player', items, (shown) => shown.includes(`${one} is at 1, 2`));
      await client.publish('players:game-7', { x: 3, y: 4 }, { key: one });
      await until('the player elsewhere', items, (shown) => shown.includes(`${one} is at 3, 4`));
      await client.remove('players:game-7', one);
      await until('no such player', items, (shown) => !shown.some((item) => item.startsWith(one)));
    });

    test('in a worker', async (t) => {
      const { said } = await open(`${site.base}/works`);
      keepSaying(t, await elsewhere(t), `to the worker of ${name}`);
      await said.has('the worker\'s word', (line) => line === `to the worker of ${name}`);
    });
  });
}

describe('snippets in node', { concurrency: true }, () => {
  /** Runs a block as a module of its own, to its end. @returns {Promise<string>} what it wrote */
  async function runs(name, end = '\nclient.close();') {
    const file = join(folder, `${name}.mjs`);
    await writeFile(file, BEGIN(server.base) + placed(name) + end);
    const { stdout, stderr } = await within(name, run(process.execPath, [file], { cwd: folder }));
    return stdout + stderr;
  }

  test('a watcher', async (t) => {
    await writeFile(join(folder, 'watch.mjs'), placed('watch.mjs'));
    const child = spawn(process.execPath, ['watch.mjs'], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => child.kill());
    const heard = new Promise((resolve) => createInterface({ input: child.stdout }).once('line', resolve));
    keepSaying(t, await elsewhere(t), 'to the watcher');
    assert.match(await within('a line', heard), /\w/);
  });

  test('subscribe', () => runs('subscribe', '\nif (!/^[0-9a-f]{16}\\./.test(cursor)) throw new Error(cursor);\nclient.close();'));

  test('iterate', async (t) => {
    keepSaying(t, await elsewhere(t), 'bye');
    assert.match(await runs('iterate'), /^bye$/m);
  });

  test('state', async (t) => {
    const client = await elsewhere(t);
    await client.publish('players:game-7', 'here', { key: 'lovelace' });
    assert.match(await runs('state'), /^lovelace is at here$[^]*'lovelace'/m);
  });

  test('publish', async (t) => {
    const got = new Said();
    const client = await elsewhere(t);
    const subscription = client.subscribe('chat:lobby', { onPublication: ({ data }) => got.push(data) });
    await subscription.ready;
    await runs('publish');
    await got.has('text', (data) => data === 'hello');
    await got.has('JSON', (data) => data.text === 'hello' && data.from === 'ada');
    await got.has('bytes', (data) => data instanceof Uint8Array && `${data}` === '1,2,3');
  });

  test('transports', () => runs('transports', '\nawait careful.ready;\nconsole.log(careful.transport);\nclient.close();\ncareful.close();'));

  test('observe', async () => {
    assert.match(await runs('observe'), /webtransport[^]*failed[^]*closed\n1000 $/m);
  });

  test('errors', async () => {
    assert.match(await runs('errors'), /\w/);
  });
});
