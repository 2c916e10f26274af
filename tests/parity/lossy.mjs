/**
 * A UDP path that loses packets, between clients and the server's QUIC port.
 *
 * Clients find it by a `/connect` of its own, which is the server's but for WebTransport's port: `base` stands in the
 * place of the server's. Nothing is lost until `share` is set. What is lost is the same share of the packets of each
 * direction, chosen by a generator with a seed.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:http';

const LOOPBACK = '127.0.0.1';
/** Addresses of clients; a packet of one more is lost. */
const MAX_CLIENTS = 8;
const SOCKET_BUFFER = 1 << 20;

/** Numbers from 0 to 1 (mulberry32). */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

async function bound() {
  const socket = createSocket({ type: 'udp4', recvBufferSize: SOCKET_BUFFER, sendBufferSize: SOCKET_BUFFER });
  // A port that nobody has any more refuses, which is a packet lost.
  socket.on('error', () => {});
  socket.bind(0, LOOPBACK);
  await once(socket, 'listening');
  return socket;
}

export class LossyPath {
  /** Of the packets of each direction, between 0 and 1. */
  share = 0;
  /** Packets of each direction: those that came, and those of them that were lost. */
  up = { came: 0, lost: 0 };
  down = { came: 0, lost: 0 };
  #clients = new Map();
  #closed = false;

  /** @param {string} base of the server @param {number} seed */
  static async start(base, seed) {
    const path = new LossyPath();
    const found = await (await fetch(`${base}/connect`)).json();
    const url = new URL(found.webtransport.url);
    path.server = Number(url.port);
    path.random = { up: generator(seed), down: generator(seed + 1) };
    path.socket = await bound();
    path.socket.on('message', (packet, { port }) => path.#up(packet, port));
    url.port = path.socket.address().port;
    found.webtransport.url = url.href;
    const answer = JSON.stringify(found);
    const headers = { 'content-type': 'application/json', 'access-control-allow-origin': '*', 'content-length': Buffer.byteLength(answer) };
    path.http = createServer((request, response) => {
      if (request.url === '/connect') response.writeHead(200, headers).end(answer);
      else response.writeHead(404).end();
    });
    path.http.listen(0, LOOPBACK);
    await once(path.http, 'listening');
    path.base = `http://${LOOPBACK}:${path.http.address().port}`;
    return path;
  }

  async stop() {
    this.#closed = true;
    for (const upstream of this.#clients.values()) (await upstream)?.close();
    this.socket.close();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  async #up(packet, port) {
    if (this.#loses('up')) return;
    if (!this.#clients.has(port)) {
      if (this.#clients.size === MAX_CLIENTS) return;
      this.#clients.set(port, this.#client(port));
    }
    const upstream = await this.#clients.get(port);
    if (!this.#closed) upstream.send(packet, this.server, LOOPBACK);
  }

  async #client(port) {
    const upstream = await bound();
    upstream.on('message', (packet, from) => {
      if (from.port === this.server && !this.#closed && !this.#loses('down')) this.socket.send(packet, port, LOOPBACK);
    });
    return upstream;
  }

  #loses(direction) {
    const count = this[direction];
    count.came++;
    // Drawn for every packet, so that which are lost does not depend on when it began.
    const lost = this.random[direction]() < this.share;
    if (lost) count.lost++;
    return lost;
  }
}
