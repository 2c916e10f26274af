/**
 * A network namespace for one test file, with the browsers and the servers in it: imported first, it runs the file anew
 * inside one. What passes between pages and a server there is the test's to cut.
 *
 * Pages come from 127.0.0.1. Publishers come from PUBLISHER, which is never cut off. The link that stands for the way to
 * the world leads nowhere: browsers look at it to see whether they are online.
 */
import { execFile, spawnSync } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const INSIDE = 'FULMAR_NAMESPACE';
const COMMAND_DEADLINE = 20_000;
export const PUBLISHER = '127.0.0.9';

// No address comes later: a browser would take that for another network.
const SETUP = `
ip link set lo up &&
ip link add world type veth peer name beyond &&
ip link set world addrgenmode none && ip link set beyond addrgenmode none &&
ip address add 10.78.0.2/24 dev world &&
ip link set beyond up && ip link set world up &&
ip route add default via 10.78.0.1 &&
nft add table ip cuts && exec "$0" "$@"
`;

if (!process.env[INSIDE]) {
  const env = { ...process.env, [INSIDE]: String(process.pid) };
  const self = [process.execPath, ...process.execArgv, process.argv[1]];
  const { status, error } = spawnSync('unshare', ['--net', '--fork', '--kill-child', 'sh', '-c', SETUP, ...self], { env, stdio: 'inherit' });
  if (error || status === null) throw error ?? new Error('the run in a network namespace was ended');
  process.exit(status);
}

const command = (...args) => run(args[0], args.slice(1), { timeout: COMMAND_DEADLINE });
let cuts = 0;

/**
 * Drops, without a word, what passes between pages and a server's port.
 * @param {'udp' | 'tcp'} protocol @param {number | string} port @param {('up' | 'down')[]} ways `up` is what pages send
 * @returns {Promise<() => Promise<unknown>>} ends it
 */
export async function cut(protocol, port, ways = ['up', 'down']) {
  const name = `cut${cuts++}`;
  const side = { up: ['saddr', 'dport'], down: ['daddr', 'sport'] };
  // At the input, where nobody is told: a packet that is dropped at the output is an error of who sends it.
  const rules = ways.map((way) => `add rule ip cuts ${name} ip ${side[way][0]} != ${PUBLISHER} ${protocol} ${side[way][1]} ${port} drop`);
  await command('nft', [`add chain ip cuts ${name} { type filter hook input priority 0; }`, ...rules].join('; '));
  return () => command('nft', `flush chain ip cuts ${name}; delete chain ip cuts ${name}`);
}

/** Ends the connections of pages to a server's port, and tells both sides. @param {number | string} port */
export async function reset(port) {
  await command('ss', '--kill', '--tcp', 'src', '127.0.0.1', 'and', 'dport', '=', `:${port}`);
}

/** The link that browsers look at. @param {'up' | 'down'} state */
export async function setLink(state) {
  await command('ip', 'link', 'set', 'world', state);
  if (state === 'up') await command('ip', 'route', 'add', 'default', 'via', '10.78.0.1');
}
