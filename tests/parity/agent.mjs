/**
 * An agent holds connections of one client implementation and does what a scenario asks of it.
 *
 * A request and its answer are JSON, so an agent can live in a page, in another process (one JSON text a line, see
 * lines.mjs) or in another language:
 *
 *     {"op": ..., ...}  ->  {"ok": ...}  or  {"error": {"code", "message"}}
 *
 * | op          | members                                            | ok                                           |
 * |-------------|----------------------------------------------------|----------------------------------------------|
 * | all         | ops                                                | the answers' `ok`s, done concurrently        |
 * | open        | id, transport, base; encoding?, http?, wait?,      | {}                                           |
 * |             | interval?, ticket?, channels?, after?, continues?  |                                              |
 * | subscribe   | id, channel; after?, position?                     | {}                                           |
 * | unsubscribe | id, channel                                        | {}                                           |
 * | publish     | id, channel; data or b64 or removed; key?, ...     | {"epoch", "offset"}                          |
 * | attach      | id, session, secret; positions?                    | {} and the channels of positions go on here  |
 * | wait        | id, channel, for, timeout                          | {} once it is so, or the error `timeout`     |
 * | digest      | id, channel                                        | {"count", "first", "last", "ordered",        |
 * |             |                                                    |  "checksum", "controls"}                     |
 * | kept        | id, channel                                        | the last publications, JSON encoded          |
 * | view        | id, channel                                        | {"synced", "values": {key: {data or b64}}}   |
 * | cursor      | id                                                 | {"cursor"}                                   |
 * | close       | id; code?, reason?                                 | {}                                           |
 * | closed      | id, timeout                                        | {"code", "reason"} once it is                |
 *
 * `for` is one of {"publications": N}, {"control": type}, {"synced": true}, {"key", "data"}, {"gone": key} (it holds
 * nothing) and {"removal": key} (its removal was received).
 * `http` is the version of HTTP ("1.1", "2", "3") for an agent that can choose it, as those in JavaScript cannot.
 * `continues` names a closed connection whose digests and views go on in this one. The checksum is the 32-bit FNV-1a
 * of each publication's payload (text as UTF-8, JSON as JSON.stringify writes it, binary as it is) and a line feed.
 *
 * The function is self-contained: its source is what a page is given.
 */
export function createAgent(fulmar, platform = {}) {
  const KEPT = 200;
  const connections = new Map();
  const utf8 = new TextEncoder();

  const failure = (code, message) => Object.assign(new Error(message), { code });
  const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
  const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const content = (data) => (data instanceof Uint8Array ? { b64: toBase64(data) } : { data });

  class Channel {
    count = 0;
    first = null;
    last = null;
    ordered = true;
    checksum = 0x811c9dc5;
    controls = [];
    removals = new Set();
    kept = [];

    publication(message) {
      const { epoch, offset, data, removed } = message;
      if (this.last && (this.last.epoch !== epoch || this.last.offset >= offset)) this.ordered = false;
      this.last = { epoch, offset };
      this.first ??= this.last;
      this.count++;
      if (removed) this.removals.add(message.key);
      else {
        if (data instanceof Uint8Array) this.add(data);
        else this.add(utf8.encode(typeof data === 'string' ? data : JSON.stringify(data)));
      }
      this.add([10]);
      this.kept.push({ epoch, offset, key: message.key, ...(removed ? { removed } : content(data)) });
      if (this.kept.length > 2 * KEPT) this.kept.splice(0, KEPT);
    }

    add(bytes) {
      let sum = this.checksum;
      for (const byte of bytes) sum = Math.imul(sum ^ byte, 0x01000193) >>> 0;
      this.checksum = sum;
    }
  }

  class Held {
    channels = new Map();
    view = new fulmar.StateView();
    waiting = new Set();
    end = null;

    channel(name) {
      if (!this.channels.has(name)) this.channels.set(name, new Channel());
      return this.channels.get(name);
    }

    take(message) {
      const channel = this.channel(message.channel);
      if (message.type === 'publication') channel.publication(message);
      else channel.controls.push(message.type);
      this.view.apply(message);
      this.look();
    }

    look() {
      for (const waiter of this.waiting) {
        if (waiter.met()) waiter.resolve({});
        else if (this.end) waiter.reject(failure('closed', `closed with ${this.end.code} ${this.end.reason} while waiting for ${waiter.what}`));
      }
    }

    values(name) {
      const entries = [...this.view.entries(name)].map(([key, { data }]) => [key, content(data)]);
      return { synced: this.view.synced(name), values: Object.fromEntries(entries) };
    }

    /** Whether the condition holds, from what has been received so far. */
    condition(name, wanted) {
      const channel = this.channel(name);
      if ('publications' in wanted) return () => channel.count >= wanted.publications;
      if ('control' in wanted) return () => channel.controls.includes(wanted.control);
      if ('synced' in wanted) return () => this.view.synced(name);
      const text = JSON.stringify(wanted.data);
      if ('key' in wanted) return () => JSON.stringify(this.view.get(name, wanted.key)) === text;
      if ('removal' in wanted) return () => channel.removals.has(wanted.removal);
      if ('gone' in wanted) return () => this.view.get(name, wanted.gone) === undefined;
      throw failure('bad_request', `nothing can be waited for by ${JSON.stringify(wanted)}`);
    }

    wait(name, wanted, timeout) {
      return new Promise((resolve, reject) => {
        const what = `${JSON.stringify(wanted)} of ${name}`;
        const waiter = { met: this.condition(name, wanted), what };
        const timer = setTimeout(() => {
          const { count, last, controls } = this.channel(name);
          const so = JSON.stringify({ count, last, controls, ...this.values(name) }).slice(0, 500);
          waiter.reject(failure('timeout', `waited ${timeout} ms in vain for ${what}; so far ${so}`));
        }, timeout);
        for (const [end, settle] of [['resolve', resolve], ['reject', reject]]) {
          waiter[end] = (value) => {
            clearTimeout(timer);
            this.waiting.delete(waiter);
            settle(value);
          };
        }
        this.waiting.add(waiter);
        this.look();
      });
    }
  }

  const get = (id) => connections.get(id) ?? (() => { throw failure('bad_request', `no connection ${id}`); })();

  const ops = {
    all: ({ ops: requests }) => Promise.all(requests.map(run)),

    async open({ id, transport, base, encoding, wait, interval, ticket, channels, after, continues }) {
      const held = continues ? connections.get(continues).held : new Held();
      held.end = null;
      const options = { base, wait, interval, channels, after, onmessage: (message) => held.take(message), ...platform };
      if (encoding === 'json') options.WebSocket = platform.JsonWebSocket;
      if (ticket) {
        // The ticket of a session belongs in the URL of the request that attaches it.
        const fetch = platform.fetch ?? globalThis.fetch.bind(globalThis);
        options.fetch = (url, init) => fetch(`${url}&ticket=${encodeURIComponent(ticket)}`, init);
      }
      const connection = await fulmar.open(transport, options);
      connections.set(id, { connection, held });
      connection.closed.then((close) => {
        held.end = close;
        held.look();
      });
      return {};
    },

    async subscribe({ id, channel, after, position }) {
      await get(id).connection.subscribe(channel, { after, position });
      return {};
    },

    async unsubscribe({ id, channel }) {
      await get(id).connection.unsubscribe(channel);
      return {};
    },

    async publish({ op, id, channel, b64, ...rest }) {
      const { epoch, offset } = await get(id).connection.publish(channel, b64 === undefined ? rest : { ...rest, data: fromBase64(b64) });
      return { epoch, offset };
    },

    async attach({ id, session, secret, positions }) {
      await get(id).connection.request({ type: 'attach', id: session, secret, positions });
      return {};
    },

    wait: ({ id, channel, for: wanted, timeout }) => get(id).held.wait(channel, wanted, timeout),

    digest({ id, channel }) {
      const { count, first, last, ordered, checksum, controls } = get(id).held.channel(channel);
      return { count, first, last, ordered, checksum, controls };
    },

    kept: ({ id, channel }) => get(id).held.channel(channel).kept.slice(-KEPT),
    view: ({ id, channel }) => get(id).held.values(channel),
    cursor: ({ id }) => ({ cursor: get(id).connection.cursor }),

    close({ id, code, reason }) {
      get(id).connection.close(code, reason);
      return {};
    },

    async closed({ id, timeout }) {
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(failure('timeout', `waited ${timeout} ms in vain for ${id} to close`)), timeout);
      });
      const { code, reason } = await Promise.race([get(id).connection.closed, late]).finally(() => clearTimeout(timer));
      return { code, reason };
    },
  };

  async function run(request) {
    if (!Object.hasOwn(ops, request.op)) throw failure('bad_request', `no op ${request.op}`);
    return ops[request.op](request);
  }

  return async function handle(request) {
    try {
      return { ok: await run(request) };
    } catch (error) {
      const { code = 'failed', message, cause } = error;
      const why = cause?.message ? ` (${cause.message})` : '';
      return { error: { code: String(code), message: `${message}${why}` } };
    }
  };
}
