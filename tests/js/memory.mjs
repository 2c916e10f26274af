/** A server in memory, and connections to it that are the client's own but for what carries them. */
import { InbandConnection } from '../../client/js/connection.js';
import { entryOf } from '../../client/js/cursor.js';

/** Lets everything that waits for a microtask, or for nothing, go first. */
export const settled = async (turns = 3) => {
  for (let i = 0; i < turns; i++) await new Promise(setImmediate);
};

/**
 * Time that passes when it is told to, for timers and every clock.
 * @param {import('node:test').TestContext} context
 */
export function clock(context) {
  let now = 1000;
  context.mock.method(performance, 'now', () => now);
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1.8e12 });
  return {
    get now() {
      return now;
    },
    async pass(ms, step = 50) {
      for (let left = ms; left > 0; left -= step) {
        now += Math.min(step, left);
        context.mock.timers.tick(Math.min(step, left));
        await settled(1);
      }
      await settled();
    },
    /** The page slept: its clock went on, its timers did not. */
    sleep(ms) {
      now += ms;
    },
  };
}

export class Line extends InbandConnection {
  /** What the client said. */
  said = [];
  /** What the server has sent and is still on its way, while it is held. @type {any[] | null} */
  held = null;
  #answer;

  constructor(transport, answer) {
    super(transport, 'bin', () => ({
      send: (message) => this.send(message),
      close: (code, reason) => this.finish({ code, reason }),
    }));
    this.#answer = answer;
  }

  send(message) {
    this.said.push(message);
    queueMicrotask(() => this.open && this.#answer?.(this, message));
  }

  /** What the server says. */
  say(...messages) {
    for (const message of messages) {
      if (this.held) this.held.push(message);
      else if (this.open) this.receive(structuredClone(message));
    }
  }

  /** What was held arrives, or the first of it. */
  arrive(count = Infinity) {
    const due = this.held?.splice(0, count) ?? [];
    for (const message of due) if (this.open) this.receive(structuredClone(message));
    return due.length;
  }

  /** The server, or the network, ends it. */
  end(close) {
    this.finish(close);
  }
}

/** The channels of a server: `event:` in a history of bounded length, `state:` by key. */
export class Memory {
  /** @type {Map<string, any>} */
  channels = new Map();
  /** All connections that were made. @type {Line[]} */
  lines = [];
  published = [];
  #ids = new Map();
  #epoch = 0;
  keep = 1000;
  /** Takes a message in the server's stead: true where it has. @type {(line: Line, message: any) => boolean} */
  intercept = () => false;

  accept(transport) {
    const line = new Line(transport, (...args) => this.#answer(...args));
    line.reading = new Map();
    this.lines.push(line);
    return line;
  }

  channel(name) {
    let channel = this.channels.get(name);
    if (!channel) this.channels.set(name, (channel = { name, epoch: `e${++this.#epoch}`, head: 0, log: [], keys: new Map() }));
    return channel;
  }

  publish(name, data, key = '', more = {}) {
    const channel = this.channel(name);
    const offset = ++channel.head;
    const publication = { type: 'publication', channel: name, epoch: channel.epoch, offset, time: Date.now(), key, removed: false, ...more };
    if (!publication.removed) publication.data = data;
    if (name.startsWith('state:')) channel.keys.set(key, publication);
    else channel.log = [...channel.log, publication].slice(-this.keep);
    for (const line of this.lines) if (line.open && line.reading.has(name)) line.say(publication);
    return publication;
  }

  /** History is lost, as in a restart: who reads is told. */
  renew(name) {
    const channel = this.channel(name);
    Object.assign(channel, { epoch: `e${++this.#epoch}`, head: 0, log: [], keys: new Map() });
    for (const line of this.lines) if (line.open && line.reading.has(name)) this.#lost(line, channel);
  }

  /** What is held so far is forgotten, but for the newest. */
  trim(name, keep) {
    const channel = this.channel(name);
    channel.log = keep ? channel.log.slice(-keep) : [];
  }

  #at = ({ name, epoch }, offset, type) => ({ type, channel: name, epoch, offset });

  /** A gap and what is held, or the values anew. */
  #lost(line, channel) {
    if (channel.name.startsWith('state:')) return this.#snapshot(line, channel);
    const from = channel.head - channel.log.length;
    line.say(this.#at(channel, from, 'gap'), ...channel.log);
  }

  #snapshot(line, channel) {
    const values = [...channel.keys.values()].filter(({ removed }) => !removed).sort((a, b) => a.offset - b.offset);
    line.say(this.#at(channel, 0, 'reset'), ...values, this.#at(channel, channel.head, 'synced'));
  }

  #answer(line, message) {
    const { type, ref } = message;
    if (this.intercept(line, message)) return;
    switch (type) {
      case 'attach':
        for (const other of this.lines) {
          if (other !== line && other.open && other.session === message.secret) other.end({ code: 4900, reason: 'replaced' });
        }
        line.session = message.secret;
        line.say({ type: 'attached', ref, session: 's', resumed: true });
        break;
      case 'ping': line.say({ type: 'pong', ref }); break;
      case 'subscribe': this.#subscribe(line, message); break;
      case 'unsubscribe':
        line.reading.delete(message.channel);
        line.say({ type: 'unsubscribed', ref, channel: message.channel });
        break;
      case 'publish': {
        const { channel, data, key, id, removed = false } = message;
        const known = `${line.session} ${channel} ${id}`;
        const { epoch, offset } = this.#ids.get(known) ?? this.publish(channel, data, key, { id, removed });
        if (!this.#ids.has(known)) this.published.push(data);
        this.#ids.set(known, { epoch, offset });
        line.say({ type: 'published', ref, channel, epoch, offset });
      }
    }
  }

  #subscribe(line, { ref, channel: name, after, position }) {
    const channel = this.channel(name);
    const from = position ?? (after ? entryOf(after, name) : undefined);
    const isState = name.startsWith('state:');
    line.reading.set(name, true);
    const covered = from && from.epoch === channel.epoch && from.offset <= channel.head
      && (isState || from.offset >= channel.head - channel.log.length);
    line.say({ ...this.#at(channel, from?.offset ?? (isState ? 0 : channel.head), 'subscribed'), ref, ...(from && { recovered: covered }) });
    if (covered) {
      const newer = (isState ? [...channel.keys.values()] : channel.log).filter(({ offset }) => offset > from.offset);
      line.say(...newer.sort((a, b) => a.offset - b.offset));
    } else if (from) this.#lost(line, channel);
    else if (isState) this.#snapshot(line, channel);
  }
}
