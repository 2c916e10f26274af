/** Starts the server under test, and publishes to it from outside of every transport that is tested. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { randomUUID } from 'node:crypto';
import { open } from '../../client/js/fulmar.js';
import { QuietWebSocket } from './websocket.mjs';

const BINARY = process.env.FULMAR_BIN ?? fileURLToPath(new URL('../../target/debug/fulmar', import.meta.url));
const START_DEADLINE = 15_000;

export class Server {
  /** @param {string[]} args besides addresses @param {{http?: string, quic?: string}} at its addresses; else of its own */
  static async start(args = [], { http = '127.0.0.1:0', quic = '127.0.0.1:0' } = {}) {
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('FULMAR_')));
    const server = new Server();
    server.process = spawn(BINARY, ['--http', http, '--quic', quic, ...args], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    server.ended = new Promise((resolve, reject) => {
      server.process.once('exit', resolve);
      server.process.once('error', reject);
    });
    const printed = [];
    const found = new Promise((resolve) => {
      createInterface({ input: server.process.stdout }).on('line', (line) => {
        printed.push(line);
        const match = /https?:\/\/127\.0\.0\.1:\d+(?=\/)/.exec(line);
        if (match) resolve(match[0]);
      });
    });
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${BINARY} printed no URL within ${START_DEADLINE} ms: ${printed.join('\n')}`)), START_DEADLINE);
    });
    const gone = server.ended.then((code) => { throw new Error(`${BINARY} ended with ${code}: ${printed.join('\n')}`); });
    try {
      server.base = await Promise.race([found, gone, late]);
    } catch (error) {
      server.process.kill();
      throw error;
    } finally {
      clearTimeout(timer);
      gone.catch(() => {});
    }
    return server;
  }

  async stop() {
    this.process.kill('SIGTERM');
    await this.ended;
  }

  async post(path, body, headers = {}) {
    const response = await fetch(this.base + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`POST ${path} ${JSON.stringify(body).slice(0, 200)}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  /** @returns {Promise<{epoch: string, offset: number}>} */
  publish(channel, content) {
    return this.post('/api/publish', { channel, ...content });
  }

  /** A session that can be resumed: {id, secret, ticket()}. */
  async session() {
    const { id, secret } = await this.post('/session', {});
    const ticket = async () => (await this.post('/session/ticket', {}, { authorization: `Bearer ${secret}` })).ticket;
    return { id, secret, ticket };
  }

  /** A connection that publishes many, without waiting for each. */
  publisher() {
    return open('websocket', { base: this.base, WebSocket: QuietWebSocket });
  }
}

/** A channel that no other scenario uses. */
export const channelIn = (namespace) => `${namespace}:${randomUUID().slice(0, 13)}`;
