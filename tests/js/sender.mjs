/**
 * A model of the sending side of PROTOCOL.md, section 9, as plain as can be: whatever is not acknowledged in time is sent
 * again as it is by then. Its network loses, doubles and reorders datagrams; a stream is only slow. Time passes in steps of a millisecond.
 */
import { prefixed } from '../../client/js/framing.js';
import { PART } from '../../client/js/values.js';
import { encodeServer } from './peer.mjs';

const TIMEOUT = 60;
const ROOM = 1150;
const STREAM_DELAY = 12;

/** Mulberry32: the same numbers for the same seed. */
export function dice(seed) {
  const random = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return { random, below: (n) => Math.floor(random() * n), chance: (p) => random() < p };
}

const utf8 = new TextEncoder();

export class Sender {
  now = 1000;
  /** What arrives when: messages of streams in order, frames of datagrams as they come. */
  stream = [];
  datagrams = [];
  loss = 0.2;
  #random;
  #number = 0;
  #alias = 0;
  #streamed = 0;
  /** @type {Map<string, any>} */
  channels = new Map();
  /** Of each frame under way: when it went, and what it held. */
  sent = new Map();

  constructor(random) {
    this.#random = random;
  }

  // ---- the log ----

  publish(name, key, data) {
    const channel = this.channels.get(name);
    const offset = ++channel.head;
    channel.keys.set(key, { offset, data, acked: false, parts: new Set(), at: -Infinity });
    return offset;
  }

  low(channel) {
    let low = channel.head;
    for (const { offset, acked } of channel.keys.values()) if (!acked) low = Math.min(low, offset - 1);
    return low;
  }

  // ---- the stream ----

  #say(message) {
    this.stream.push({ at: this.now + STREAM_DELAY, message });
  }

  subscribe(name) {
    const channel = { name, epoch: 'e1', alias: ++this.#alias, head: this.#random.below(5), keys: new Map(), quiet: false };
    this.channels.set(name, channel);
    this.#say({ type: 'subscribed', alias: channel.alias, channel: name, epoch: channel.epoch, offset: channel.head });
    this.reset(name);
  }

  /** A snapshot, as for one who fell behind. */
  reset(name) {
    const channel = this.channels.get(name);
    if (channel.quiet) return;
    const { alias, epoch, head } = channel;
    this.#say({ type: 'reset', alias, channel: name, epoch, offset: head });
    this.#tell(channel, ([, { data }]) => data !== null);
    this.#say({ type: 'synced', alias, channel: name, epoch, offset: head });
    this.#inSync(channel);
  }

  /** History is lost. */
  renew(name) {
    const channel = this.channels.get(name);
    if (channel.quiet) return;
    Object.assign(channel, { epoch: `e${this.#alias + 1}`, alias: ++this.#alias, head: this.#random.below(20), keys: new Map() });
    this.reset(name);
  }

  unsubscribe(name) {
    const channel = this.channels.get(name);
    if (channel.quiet) return;
    channel.quiet = true;
    this.#say({ type: 'unsubscribed', channel: name });
  }

  resume(name, offset) {
    const channel = this.channels.get(name);
    const { alias, epoch } = channel;
    channel.quiet = false;
    this.#say({ type: 'subscribed', alias, channel: name, epoch, offset });
    this.#tell(channel, ([, newest]) => newest.offset > offset);
    this.#inSync(channel);
  }

  #tell({ name, alias, epoch, keys }, which) {
    for (const [key, newest] of [...keys].filter(which).sort(([, a], [, b]) => a.offset - b.offset)) {
      const { offset, data } = newest;
      const content = data === null ? { removed: true } : { removed: false, data };
      this.#say({ type: 'publication', alias, channel: name, epoch, offset, time: 1, key, ...content });
    }
    // A stream loses nothing.
    for (const newest of keys.values()) newest.acked = true;
  }

  #inSync(channel) {
    this.#say({ type: 'values', number: ++this.#streamed, entries: [{ alias: channel.alias, low: channel.head }] });
    // What has not arrived must not be counted in a datagram that overtakes it.
    channel.tells = this.now + STREAM_DELAY + 1 + this.#random.below(20);
  }

  #told(channel) {
    return channel.tells <= this.now ? this.low(channel) : 0;
  }

  /** Channels of which datagrams are sent. */
  #lively() {
    return [...this.channels.values()].filter(({ quiet }) => !quiet);
  }

  // ---- datagrams ----

  /** What of the newest values is not known to have arrived, nor under way: whole, or part by part. */
  #pending() {
    const pending = [];
    for (const channel of this.#lively()) {
      const low = this.#told(channel);
      for (const [key, newest] of channel.keys) {
        if (newest.acked) continue;
        const { offset, data } = newest;
        const entry = { alias: channel.alias, low, offset, time: this.now + this.#random.below(5) - 2, key, removed: data === null };
        const bytes = typeof data === 'string' ? utf8.encode(data) : null;
        if (!bytes || bytes.length <= 800) {
          if (newest.at < this.now - TIMEOUT) pending.push({ newest, size: 320 + (bytes?.length ?? 0), entry: { ...entry, data } });
          continue;
        }
        newest.sent ??= new Map();
        for (let index = 0; index * PART < bytes.length; index++) {
          if (newest.parts.has(index) || newest.sent.get(index) >= this.now - TIMEOUT) continue;
          const slice = bytes.slice(index * PART, (index + 1) * PART);
          const part = { kind: 1, index, length: bytes.length, bytes: slice };
          pending.push({ newest, index, size: 40 + slice.length, entry: { ...entry, part } });
        }
      }
    }
    return pending;
  }

  /** Sends up to `count` datagrams of what is pending, in any order. */
  flush(count) {
    const pending = this.#pending();
    for (let i = 0; i < count && pending.length; i++) {
      const items = [];
      for (let room = ROOM; pending.length; ) {
        const at = this.#random.below(pending.length);
        if (pending[at].size > room) break;
        room -= pending[at].size;
        items.push(...pending.splice(at, 1));
      }
      if (!items.length) continue;
      this.#send(items);
    }
    // Positions alone, now and then.
    if (!pending.length && this.now % 40 === 0) {
      this.#send(this.#lively().map((channel) => ({ entry: { alias: channel.alias, low: this.#told(channel) } })));
    }
  }

  #send(items) {
    const number = ++this.#number;
    for (const { newest, index } of items) {
      if (index !== undefined) newest.sent.set(index, this.now);
      else if (newest) newest.at = this.now;
    }
    this.sent.set(number, items);
    const bytes = prefixed(encodeServer({ type: 'values', number, entries: items.map(({ entry }) => entry) }));
    for (let copies = this.#random.chance(0.1) ? 2 : 1; copies > 0; copies--) {
      if (!this.#random.chance(this.loss)) this.datagrams.push({ at: this.now + 1 + this.#random.below(40), bytes, number });
    }
  }

  acknowledged({ newest, bitmap }) {
    const numbers = [newest];
    for (let bit = 0; bit < 62; bit++) if ((bitmap >> BigInt(bit)) & 1n) numbers.push(newest - 1 - bit);
    for (const number of numbers) {
      for (const { newest: value, index, entry } of this.sent.get(number) ?? []) {
        if (!value) continue;
        if (index === undefined) value.acked = true;
        else if (value.parts.add(index).size === Math.ceil(entry.part.length / PART)) value.acked = true;
      }
      this.sent.delete(number);
    }
    return numbers;
  }

  /** What has arrived by now. */
  arrivals() {
    const stream = this.stream.filter(({ at }) => at <= this.now).map(({ message }) => message);
    this.stream = this.stream.filter(({ at }) => at > this.now);
    const datagrams = this.datagrams.filter(({ at }) => at <= this.now);
    this.datagrams = this.datagrams.filter(({ at }) => at > this.now);
    return { stream, datagrams };
  }
}
