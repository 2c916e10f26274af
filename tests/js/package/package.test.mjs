/** What npm users get: the tarball, its declarations and its modules, in a folder that knows nothing of this repository. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const CLIENT = fileURLToPath(new URL('../../../client/js', import.meta.url));
const TSC = fileURLToPath(new URL('../../node_modules/typescript/bin/tsc', import.meta.url));

let folder;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fulmar-package-'));
  await run('npm', ['pack', '--silent', '--pack-destination', folder], { cwd: CLIENT });
  const [tarball] = (await readdir(folder)).filter((name) => name.endsWith('.tgz'));
  await writeFile(join(folder, 'package.json'), '{"name": "app", "private": true, "type": "module"}');
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', `./${tarball}`], { cwd: folder });
});

after(() => rm(folder, { recursive: true, force: true }));

/** Compiles files of an application as strictly as can be, the declarations of the package with them. @returns what tsc said */
async function compile(files, resolution) {
  const src = await mkdtemp(join(folder, 'src-'));
  for (const [name, code] of Object.entries(files)) await writeFile(join(src, name), code);
  const compilerOptions = {
    strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: false, noEmit: true,
    types: [], target: 'es2022', lib: ['es2023', 'dom', 'dom.iterable'], ...resolution,
  };
  await writeFile(join(src, 'tsconfig.json'), JSON.stringify({ compilerOptions }));
  return run(process.execPath, [TSC, '-p', src]).then(() => '', (error) => error.stdout || String(error));
}

test('the package has the modules, their declarations and nothing else', async () => {
  const root = join(folder, 'node_modules/fulmar');
  const names = (await readdir(root, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length + 1));
  const modules = (await readdir(CLIENT, { recursive: true })).filter((name) => name.endsWith('.js'));
  const declarations = modules.map((name) => `types/${name.replace(/\.js$/, '.d.ts')}`);
  assert.deepEqual(
    names.filter((name) => !name.endsWith('.md')).sort(),
    ['package.json', ...modules, ...declarations].sort(),
  );
  const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
  assert.deepEqual(manifest.dependencies ?? {}, {});
});

test('packing leaves no declarations behind, which the server would embed', () => {
  assert.equal(existsSync(join(CLIENT, 'types')), false);
});

const APPLICATION = `
import { CloseCode, FulmarError, StateView, TRANSPORTS, advice, open } from 'fulmar';
import type { Message, Options, Publication, TransportName } from 'fulmar';

const view = new StateView();
const options: Options = { base: 'https://localhost', channels: ['host:cpu'], wait: 5 };

function take(message: Message): string {
  switch (message.type) {
    case 'publication': {
      const publication: Publication = message;
      return publication.key + publication.offset;
    }
    case 'gap': return message.epoch;
    case 'error': return message.error.code;
    default: return message.type;
  }
}

export async function main(name: TransportName): Promise<'resume' | 'afresh' | 'stop'> {
  const connection = await open(name, options);
  connection.onmessage = (message) => { view.apply(message); take(message); };
  const { offset } = await connection.publish('host:cpu', { data: new Uint8Array(3), key: 'a' });
  offset.toFixed();
  const cursor: string | null = connection.cursor;
  const { code } = await connection.closed;
  for (const [key, { data }] of view.entries('host:cpu')) console.log(key.length, data, cursor);
  if (code === CloseCode.REFUSED) throw new FulmarError('closed', String(TRANSPORTS.length));
  return advice(code);
}
`;

const NODE = { module: 'nodenext' };
const BUNDLER = { module: 'esnext', moduleResolution: 'bundler' };

const MISTAKES = [
  "await open('carrier pigeon');",
  "await open('sse', { chanels: [] });",
  "(await open('sse')).onmessage = (message) => { if (message.type === 'gap') message.data; };",
  "(await open('sse')).onmessage = (message) => { if (message.type === 'publicaton') return; };",
  "export const n: number = new StateView().get('host:cpu');",
  "(await open('websocket')).finish({ code: 1000, reason: '' });",
];

test('an application compiles against the package, and mistakes are found', async () => {
  // Where no error follows such a comment, the compiler complains of that.
  const mistakes = MISTAKES.map((code) => `// @ts-expect-error\n${code}\n`).join('');
  const said = await compile({
    'app.ts': APPLICATION,
    'mistakes.ts': `import { StateView, open } from 'fulmar';\nnew StateView();\n${mistakes}`,
  }, { module: 'nodenext' });
  assert.equal(said, '');
});

test('also as a bundler resolves it', async () => {
  const options = { module: 'esnext', moduleResolution: 'bundler', skipLibCheck: true };
  assert.equal(await compile({ 'app.ts': APPLICATION }, options), '');
});

test('a script of node runs with the package', async () => {
  const script = "import { StateView, TRANSPORTS, open } from 'fulmar';\n"
    + "const error = await open('poll', { base: 'http://localhost', fetch: () => Promise.reject(new Error('no')),\n"
    + "  channels: ['a:b'] }).catch((error) => error);\n"
    + "console.log(JSON.stringify([TRANSPORTS, new StateView().synced('a:b'), error.code, error.cause.message]));\n";
  await writeFile(join(folder, 'script.mjs'), script);
  const { stdout } = await run(process.execPath, ['script.mjs'], { cwd: folder });
  assert.deepEqual(JSON.parse(stdout), [['webtransport', 'websocket', 'sse', 'poll'], false, 'unreachable', 'no']);
});
