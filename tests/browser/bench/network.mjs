/**
 * A server, a browser and the wire between them in network namespaces of their own, laid as `fulmar bench age` does it:
 *
 *     server  10.78.0.1 -- wire -- server  wire  client -- wire -- 10.78.0.2  client
 */
import { execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

const run = promisify(execFile);

export const SERVER = '10.78.0.1';
const CLIENT = '10.78.0.2';
const PLACES = ['server', 'wire', 'client'];
/** On which every packet is what would be on a cable: none is joined or split, and checksums are there. */
const OFF = ['tx', 'gso', 'tso', 'gro', 'tx-udp-segmentation'].flatMap((feature) => [feature, 'off']);

const nameOf = (place) => `fulmar-browser-${process.pid}-${place}`;

export class Network {
  /** @type {import('node:child_process').ChildProcess[]} */
  #processes = [];

  static async build() {
    const network = new Network();
    try {
      await network.#build();
    } catch (error) {
      await network.remove();
      throw error;
    }
    return network;
  }

  async #build() {
    const ip = (words) => run('ip', words.split(' '));
    for (const place of PLACES) await ip(`netns add ${nameOf(place)}`);
    for (const end of ['server', 'client']) {
      await ip(`link add wire netns ${nameOf(end)} type veth peer name ${end} netns ${nameOf('wire')}`);
    }
    for (const place of PLACES) {
      // What IPv6 says by itself is not to be measured, and nothing of one visit may be remembered in the next.
      for (const setting of ['ipv6/conf/all/disable_ipv6', 'ipv6/conf/default/disable_ipv6', 'ipv4/tcp_no_metrics_save']) {
        await this.inside(place, 'sh', '-c', `echo 1 > /proc/sys/net/${setting}`);
      }
    }
    for (const end of ['server', 'client']) await this.#plain('wire', end);
    for (const [place, own, address, other, others] of [['server', SERVER, '01', CLIENT, '02'], ['client', CLIENT, '02', SERVER, '01']]) {
      const name = nameOf(place);
      await ip(`-n ${name} link set lo up`);
      await ip(`-n ${name} link set wire address 02:00:00:00:00:${address}`);
      await ip(`-n ${name} address add ${own}/32 dev wire`);
      await this.#plain(place, 'wire');
      await ip(`-n ${name} route add ${other}/32 dev wire src ${own}`);
      await ip(`-n ${name} neighbour replace ${other} lladdr 02:00:00:00:00:${others} dev wire nud permanent`);
    }
  }

  async #plain(place, link) {
    await this.inside(place, 'ethtool', '-K', link, ...OFF);
    await run('ip', ['-n', nameOf(place), 'link', 'set', link, 'up']);
  }

  /** Runs a command in a namespace to its end. */
  inside(place, ...words) {
    return run('ip', ['netns', 'exec', nameOf(place), ...words]);
  }

  /** Starts a command in a namespace, ahead of what else the machine has to do. */
  start(place, words, { env = process.env, stdio = ['pipe', 'pipe', 'inherit'] } = {}) {
    const first = place === 'wire' ? ['chrt', '--fifo', '10'] : ['nice', '-n', '-15'];
    const child = spawn('ip', ['netns', 'exec', nameOf(place), ...first, ...words], { env, stdio });
    this.#processes.push(child);
    return child;
  }

  /** Starts one that says by its first line that it is ready. */
  async ready(place, words, options) {
    const child = this.start(place, words, options);
    const lines = createInterface({ input: child.stdout });
    await new Promise((resolve, reject) => {
      lines.once('line', resolve);
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`${words[0]} ended with ${code}`)));
    });
    return child;
  }

  /** The namespace's name, for a process in another one. */
  name(place) {
    return nameOf(place);
  }

  async remove() {
    for (const child of this.#processes) child.kill();
    for (const place of PLACES) await run('ip', ['netns', 'del', nameOf(place)]).catch(() => {});
  }
}

/** What comes over UDP ends here, silently, as behind a firewall: the client is not told. */
export async function blockUdp(namespace, blocked) {
  const rules = blocked
    ? 'table inet blocked { chain input { type filter hook input priority 0; meta l4proto udp drop ; } ; }'
    : 'delete table inet blocked';
  await run('ip', ['netns', 'exec', namespace, 'nft', rules]);
}
