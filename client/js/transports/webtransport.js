/** WebTransport: a control stream, a stream for each subscription, and datagrams for the newest state and signals. */
import { CloseCode, FulmarError, closedError, malformed } from '../errors.js';
import { InbandConnection } from '../connection.js';
import { FrameSplitter, prefixed, splitDatagram } from '../framing.js';
import { fromBase64 } from '../json.js';
import { Receiver } from '../receiver.js';
import { AliasTable, decodeServer, encodeClient } from '../wire.js';
import { discover, know, known } from './discover.js';
import { within } from './within.js';

/**
 * @typedef {import('../wire.js').Message} Message
 * @typedef {import('../wire.js').ClientMessage} ClientMessage
 * @typedef {import('../wire.js').Frame} Frame
 * @typedef {import('../values.js').Values} Values
 * @typedef {WebTransportDatagramDuplexStream & {createWritable(): WritableStream, incomingMaxBufferedDatagrams?: number}
 *   } Datagrams with the standard's names, which come with the ones before them or in their stead
 */

/** Datagrams that may wait in the browser while the page is busy. What is pushed out of state comes again. */
const INCOMING_DATAGRAMS = 512;
/** Datagrams kept because they came before the `subscribed` of a channel that they name, and for how long. */
const MAX_EARLY = 64;
const EARLY_MS = 3000;
/** Acknowledgements that the browser has not sent yet. One that comes later says more. */
const MAX_ACKS_UNDER_WAY = 4;
/** How long reading goes on before the page gets its turn. */
const TURN_MS = 6;
/** How long a stream's end waits for the session's own, which tells the reason. */
const GRACE_MS = 1000;
/** The longest of the pauses between attempts to open a stream. */
const MAX_STREAM_PAUSE_MS = 1000;

/** How long it may take to open where it did before until the server is asked: Firefox does not notice that nobody is at a port. */
const KNOWN_PATIENCE_MS = 1000;

/** A client-opened stream: messages out, frames in. */
class Pipe {
  #writer;
  #splitter = new FrameSplitter();
  /** The number of the last frame of values that was taken in. */
  taken = 0;

  /** @param {{readable: ReadableStream, writable: WritableStream}} stream */
  constructor(stream) {
    this.readable = stream.readable;
    this.#writer = stream.writable.getWriter();
    this.#writer.closed.catch(() => {});
  }

  /** @param {ClientMessage} message @returns {number} bytes */
  send(message) {
    const bytes = prefixed(encodeClient(message));
    this.#writer.write(bytes).catch(() => {});
    return bytes.length;
  }

  /** @param {Uint8Array} chunk */
  push(chunk) {
    return this.#splitter.push(chunk);
  }

  end() {
    this.#writer.close().catch(() => {});
  }
}

/** Sends acknowledgements by datagram when they are due, and never waits for one. */
class Acknowledger {
  #datagrams;
  #acks;
  /** @type {WritableStreamDefaultWriter | null | undefined} null where datagrams cannot be sent */
  #writer;
  #underWay = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #wakes = Infinity;
  #counts;

  /**
   * @param {Datagrams} datagrams @param {import('../acks.js').Acknowledgements} acks
   * @param {import('../connection.js').Counts} counts of the connection
   */
  constructor(datagrams, acks, counts) {
    this.#datagrams = datagrams;
    this.#acks = acks;
    this.#counts = counts;
  }

  /** Asked for at each arrival too, because timers are late in a hidden page. */
  check() {
    if (this.#underWay >= MAX_ACKS_UNDER_WAY) return;
    const now = performance.now();
    const ack = this.#acks.next(now);
    if (ack) this.#send({ type: 'ack', ...ack });
    const { due } = this.#acks;
    if (due >= this.#wakes) return;
    clearTimeout(this.#timer);
    this.#wakes = due;
    this.#timer = setTimeout(() => {
      this.#wakes = Infinity;
      this.check();
    }, due - now);
  }

  /** A message is sent: what there is to acknowledge goes along. */
  hurry() {
    this.#acks.hurry(performance.now());
    this.check();
  }

  #open() {
    try {
      // The name before the standard's, which has one stream for all.
      const writable = this.#datagrams.writable ?? this.#datagrams.createWritable();
      const writer = writable.getWriter();
      writer.closed.catch(() => {});
      return writer;
    } catch {
      return null;
    }
  }

  /** @param {ClientMessage} ack */
  #send(ack) {
    if (this.#writer === undefined) this.#writer = this.#open();
    if (!this.#writer) return;
    this.#underWay++;
    const bytes = prefixed(encodeClient(ack));
    this.#counts.sent += bytes.length;
    this.#writer.write(bytes).catch(() => {}).then(() => {
      // The last of those it was waiting for may have left one due.
      if (this.#underWay-- === MAX_ACKS_UNDER_WAY) this.check();
    });
  }

  stop() {
    clearTimeout(this.#timer);
    this.#underWay = Infinity;
  }
}

class WebTransportConnection extends InbandConnection {
  /** Networks that let TCP live cut UDP off, and say nothing: it is asked sooner. */
  quiet = 5000;
  patience = 3000;
  #session;
  #control;
  #aliases = new AliasTable();
  #receiver = new Receiver(this.#aliases, (message) => {
    if (message.type === 'settled') this.positions.settle(message);
    else this.receive(message, true);
  }, this.received);
  #acknowledger;
  /** @type {Map<string, Pipe>} by channel */
  #pipes = new Map();
  /** @type {{at: number, messages: (Frame | Values)[]}[]} */
  #early = [];
  #turnEnds = 0;

  /** @param {WebTransport} session that is ready @param {Pipe} control */
  constructor(session, control) {
    super('webtransport', 'bin');
    this.#session = session;
    this.#control = control;
    this.#acknowledger = new Acknowledger(/** @type {Datagrams} */ (session.datagrams), this.#receiver.acks, this.received);
    session.closed.then(
      ({ closeCode, reason }) => {
        this.finish(this.closing ?? { code: closeCode || CloseCode.LOST, reason: reason ?? '' });
      },
      (error) => this.finish(this.closing ?? { code: CloseCode.LOST, reason: describe(error), error }),
    );
    this.#follow(control, 'control', () => true);
    this.#read(session.datagrams.readable, (datagram) => this.#datagram(datagram));
  }

  /** @protected @param {ClientMessage} message */
  send(message) {
    this.#say(this.#control, message);
  }

  /** @protected @param {Message} message @param {boolean} [datagram] */
  receive(message, datagram) {
    super.receive(message, datagram);
    // Whoever is told closes first: a page of Chromium 156 crashes where a server closes a session that has streams.
    if (message.type === 'close') this.close(message.code, message.reason);
  }

  /** @param {Pipe} pipe @param {ClientMessage} message */
  #say(pipe, message) {
    this.received.sent += pipe.send(message);
    this.#acknowledger.hurry();
  }

  /** @protected @param {import('../wire.js').Subscribe} message */
  async sendSubscribe(message) {
    const { channel } = message;
    const pipe = new Pipe(await this.#newStream());
    this.#pipes.set(channel, pipe);
    this.#follow(pipe, channel, () => this.#pipes.get(channel) === pipe);
    try {
      return await this.request(message, (numbered) => this.#say(pipe, numbered));
    } catch (error) {
      this.#drop(channel);
      throw error;
    }
  }

  /**
   * A server raises its limit of streams as they are used. A browser may wait for that, or refuse at once (Chromium).
   */
  async #newStream() {
    for (let pause = 10; ; pause *= 2) {
      try {
        return await this.#session.createBidirectionalStream();
      } catch (cause) {
        if (!this.open) throw closedError(this.closing ?? { code: CloseCode.LOST, reason: describe(cause) });
        if (pause > MAX_STREAM_PAUSE_MS) throw new FulmarError('unreachable', 'No stream could be opened: unsubscribe from some channels.', { cause });
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
  }

  /** @protected @param {import('../wire.js').Unsubscribe} message */
  async sendUnsubscribe(message) {
    const pipe = this.#pipes.get(message.channel);
    if (!pipe) throw new FulmarError('not_subscribed', `The connection does not have ${message.channel}: subscribe first.`);
    const answer = await this.request(message, (numbered) => this.#say(pipe, numbered));
    this.#drop(message.channel);
    return answer;
  }

  /** @param {string} channel */
  #drop(channel) {
    const pipe = this.#pipes.get(channel);
    this.#pipes.delete(channel);
    pipe?.end();
  }

  /**
   * Reads to the end, in turns: a flood must not keep the page from painting and from its input.
   * @param {ReadableStream<Uint8Array>} readable @param {(bytes: Uint8Array) => void} take
   */
  async #read(readable, take) {
    const reader = readable.getReader();
    try {
      while (this.open) {
        const { value, done } = await reader.read();
        if (done || !this.open) return;
        this.received.bytes += value.byteLength;
        take(value);
        const now = performance.now();
        if (now - this.#turnEnds > TURN_MS * 4) this.#turnEnds = now + TURN_MS;
        else if (now > this.#turnEnds) {
          await nextTurn();
          this.#turnEnds = performance.now() + TURN_MS;
        }
      }
    } catch (error) {
      if (error instanceof FulmarError) this.fail(error);
    }
  }

  /** @param {Pipe} pipe @param {Uint8Array[]} frames */
  #frames(pipe, frames) {
    const { taken } = pipe;
    for (const frame of frames) {
      const message = decodeServer(frame);
      if (message.type === 'values') this.#values(pipe, message);
      else this.#message(message);
      if (this.#early.length) this.#retryEarly();
    }
    if (pipe.taken > taken) this.#say(pipe, { type: 'ack', newest: pipe.taken, bitmap: 0n });
  }

  /** Values off a stream, where nothing comes too early and nothing twice. @param {Pipe} pipe @param {Values} values */
  #values(pipe, values) {
    if (values.number !== pipe.taken + 1) throw malformed('a stream leaves out a number');
    if (!values.entries.every(({ alias }) => this.#aliases.get(alias))) throw unknownAlias();
    if (this.#receiver.apply(values, true) === 'refused') {
      throw new FulmarError('unreachable', 'A stream brought parts for which there is no room.');
    }
    pipe.taken = values.number;
  }

  /** @param {Frame} frame */
  #message(frame) {
    const message = this.#aliases.resolve(frame);
    if (!message) throw unknownAlias();
    if (this.#receiver.note(message)) this.receive(message);
    else this.positions.note(message);
  }

  /** @param {Uint8Array} datagram */
  #datagram(datagram) {
    this.received.datagrams++;
    /** @type {(Frame | Values)[]} */
    let messages;
    try {
      messages = splitDatagram(datagram).map(decodeServer);
    } catch {
      return; // Not one of ours, or of a later version: values that it held come again.
    }
    for (const message of messages) if (message.type === 'values') this.#receiver.arrived(message);
    const early = messages.filter((message) => !this.#take(message));
    if (early.length) {
      this.#early.push({ at: performance.now(), messages: early });
      if (this.#early.length > MAX_EARLY) this.#early.shift();
    }
    this.#acknowledger.check();
  }

  /** @param {Frame | Values} message @returns {boolean} whether it is done with: not where it came before its channel */
  #take(message) {
    if (message.type === 'values') return this.#receiver.datagram(message, performance.now()) !== 'early';
    const resolved = this.#aliases.resolve(message);
    // What comes after an unsubscription is dropped; what comes before `subscribed` is for a channel being subscribed.
    const channel = resolved && 'channel' in resolved ? resolved.channel : undefined;
    if (resolved && channel !== undefined && this.#pipes.has(channel)) this.receive(resolved, true);
    return resolved !== null;
  }

  #retryEarly() {
    const since = performance.now() - EARLY_MS;
    this.#early = this.#early.filter((early) => {
      early.messages = early.messages.filter((message) => !this.#take(message));
      return early.messages.length && early.at >= since;
    });
    this.#acknowledger.check();
  }

  /**
   * Takes a stream's frames, and the stream's end as the connection's where it is still in use a moment later: the end
   * of the session, which tells the reason, comes after those of its streams.
   * @param {Pipe} pipe @param {string} what @param {() => boolean} inUse
   */
  async #follow(pipe, what, inUse) {
    await this.#read(pipe.readable, (chunk) => this.#frames(pipe, pipe.push(chunk)));
    setTimeout(() => {
      if (inUse()) this.fail(new FulmarError('unreachable', `The server ended the stream of ${what}.`));
    }, GRACE_MS);
  }

  /** @protected @param {import('../connection.js').Close} close */
  release(close) {
    this.#acknowledger.stop();
    super.release(close);
  }

  /** @param {number} [code] @param {string} [reason] */
  close(code = CloseCode.NORMAL, reason = '') {
    try {
      this.#session.close({ closeCode: code, reason });
    } catch {
      // It is closed already.
    }
    this.finish(this.closing ?? { code, reason });
  }
}

const unknownAlias = () => malformed('a frame names an alias that stands for nothing');

/**
 * Lets events and painting go first. Timers would be clamped to 4 ms, and to a second in a hidden page.
 * @returns {Promise<void>}
 */
function nextTurn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** @param {unknown} error */
const describe = (error) => (error instanceof Error && error.message ? error.message : 'The connection was lost.');

/** @typedef {import('./discover.js').Discovery['webtransport']} Place */

/** @param {Promise<WebTransport>} dialling that nobody waits for any more */
const abandon = (dialling) => dialling.then((session) => session.close(), () => {});

/**
 * @param {typeof globalThis.WebTransport} WebTransport @param {Place} place @param {boolean} attach @param {number} timeout
 * @returns {Promise<WebTransport>} a session that is ready
 */
async function openSession(WebTransport, { url, certificate_hashes: hashes = [] }, attach, timeout) {
  /** @type {WebTransportOptions} */
  const init = { congestionControl: 'low-latency' };
  if (hashes.length) {
    init.serverCertificateHashes = hashes.map(({ algorithm, value }) => ({ algorithm, value: fromBase64(value) }));
  }
  let session;
  try {
    session = new WebTransport(attach ? `${url}?attach` : url, init);
    session.closed.catch(() => {});
    await within(timeout, session.ready);
    return session;
  } catch (cause) {
    try {
      session?.close();
    } catch {
      // It never opened.
    }
    throw new FulmarError('unreachable', `No WebTransport session with ${url} over UDP.`, { cause });
  }
}

/** @param {import('../fulmar.js').Placed} options */
export async function openWebTransport(options) {
  const { timeout = 8000, attach = false } = options;
  const WebTransport = options.WebTransport ?? globalThis.WebTransport;
  if (!WebTransport) throw new FulmarError('unsupported', 'There is no WebTransport here (pages have it over https only): use another transport.');

  const dial = (/** @type {Place} */ place) => openSession(WebTransport, place, attach, timeout);
  let place = known(options.base);
  let session;
  if (place) {
    const dialling = dial(place);
    session = await within(KNOWN_PATIENCE_MS, dialling).catch(async () => {
      // It may be elsewhere by now, or have another certificate.
      know(options.base, null);
      const before = JSON.stringify(place);
      try {
        place = (await discover(options)).webtransport;
      } catch (error) {
        abandon(dialling);
        throw error;
      }
      if (JSON.stringify(place) === before) return dialling;
      abandon(dialling);
      return dial(place);
    });
  } else {
    place = (await discover(options)).webtransport;
    session = await dial(place);
  }
  know(options.base, place);

  const datagrams = /** @type {Datagrams} */ (session.datagrams);
  // The name in the standard, and the one before it.
  if ('incomingMaxBufferedDatagrams' in datagrams) datagrams.incomingMaxBufferedDatagrams = INCOMING_DATAGRAMS;
  else if ('incomingHighWaterMark' in datagrams) datagrams.incomingHighWaterMark = INCOMING_DATAGRAMS;

  const control = new Pipe(await session.createBidirectionalStream());
  const connection = new WebTransportConnection(session, control);
  // A stream exists for the server only when something has been sent on it, and the first is the control stream.
  if (!attach) connection.ping().catch(() => {});
  return connection;
}
