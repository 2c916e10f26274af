/** WebTransport: a control stream, a stream for each subscription, and datagrams for the newest state and signals. */
import { LOST } from '../codes.js';
import { ASKED_MS, EARLY_MS, GRACE_MS, INCOMING_DATAGRAMS, KNOWN_PATIENCE_MS, MAX_ASKED, MAX_ASKED_BYTES, MAX_EARLY, MAX_STREAM_PAUSE_MS, TURN_MS } from '../limits.js';
import { createAcks } from '../acks.js';
import { pause } from '../pause.js';
import { FulmarError, closeFor, malformed, unreachable, within } from '../errors.js';
import { InbandConnection } from '../connection.js';
import { createSplitter, prefixed, splitDatagram } from '../framing.js';
import { join } from '../bytes.js';
import { fromBase64, toBase64Url } from '../json.js';
import { decodeServer, encodeClient } from '../wire.js';
import { discover, guessed, know, known } from './discover.js';

/**
 * @typedef {import('../wire.js').ClientMessage} ClientMessage
 * @typedef {import('../wire.js').Frame} Frame
 * @typedef {import('../values.js').Values} Values
 * @typedef {WebTransportDatagramDuplexStream & {createWritable(): WritableStream, incomingMaxBufferedDatagrams?: number}
 *   } Datagrams with the standard's names, which come with the ones before them or in their stead
 */

/**
 * A client-opened stream, or the datagrams: messages out. What is written is never waited for: an error ends the session
 * as well, which tells the reason.
 * @param {{writable: WritableStream} | Promise<{writable: WritableStream}>} stream that may have yet to open @param {import('../connection.js').Counts} counts
 */
function createOutlet(stream, counts) {
  const opened = Promise.resolve(stream).then(({ writable }) => writable.getWriter());
  opened.then(({ closed }) => closed).catch(() => {});
  return {
    /** @param {ClientMessage} message @returns {Promise<void>} */
    send(message) {
      const bytes = prefixed(encodeClient(message));
      counts.sent += bytes.length;
      return opened.then((writer) => writer.write(bytes)).catch(() => {});
    },
    end() {
      opened.then((writer) => writer.close()).catch(() => {});
    },
  };
}

/**
 * @param {import('../connection.js').Inner} connection @param {WebTransport} session that is ready
 * @param {Map<string, Asked>} asked with the CONNECT @param {WebTransportBidirectionalStream} stream the server's for that, or the control stream
 * @returns {import('../connection.js').Link}
 */
function createLink(connection, session, asked, stream) {
  const given = asked.size ? stream : undefined;
  /** @type {{at: number, message: Frame | Values}[]} */
  let early = [];
  let turnEnds = 0;
  const { received, receiver } = connection;
  /** @type {ReturnType<typeof createOutlet> | undefined} */
  let outgoing;
  const acks = createAcks(async (ack) => {
    connection.mustBeOpen();
    const datagrams = /** @type {Datagrams} */ (session.datagrams);
    // The name before the standard's, which has one stream for all.
    outgoing ??= createOutlet({ writable: datagrams.writable ?? datagrams.createWritable() }, received);
    await outgoing.send(ack);
  });

  /** @param {import('../connection.js').Pipe} pipe @param {ClientMessage} message */
  function say(pipe, message) {
    pipe.send(message);
    acks.hurry();
  }

  /**
   * A server raises its limit of streams as they are used. A browser may wait for that, or refuse at once (Chromium).
   * @param {Promise<unknown>} after the control stream, for all others: it is the first
   * @returns {Promise<WebTransportBidirectionalStream>}
   */
  async function newStream(after) {
    await after;
    for (let ms = 10; ; ms *= 2) {
      try {
        return await session.createBidirectionalStream();
      } catch (cause) {
        connection.mustBeOpen();
        if (ms > MAX_STREAM_PAUSE_MS) throw unreachable('No stream could be opened: unsubscribe from some channels.', cause);
        await pause(ms);
      }
    }
  }

  /**
   * Reads to the end, in turns: a flood must not keep the page from painting and from its input.
   * @param {ReadableStream<Uint8Array>} readable @param {(bytes: Uint8Array) => void} take
   */
  async function read(readable, take) {
    const reader = readable.getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done || !connection.open) return;
        received.bytes += value.length;
        take(value);
        const now = connection.heard = performance.now();
        if (now - turnEnds > TURN_MS * 4) turnEnds = now + TURN_MS;
        else if (now > turnEnds) {
          await nextTurn();
          turnEnds = performance.now() + TURN_MS;
        }
      }
    } catch (error) {
      if (error instanceof FulmarError) connection.fail(error);
    }
  }

  /** @param {Frame | Values} message off a datagram @returns {boolean} whether it is done with: not where it came before its channel */
  const takeDatagram = (message) => (
    message.type === 'values' ? acks.take(message.number, () => receiver.apply(message, true)) : connection.receive(message, true));

  /** Takes in what it can, now or a little later. @param {(Frame | Values)[]} messages off a datagram */
  function takeDatagrams(messages) {
    const at = performance.now();
    early = [...early, ...messages.map((message) => ({ at, message }))]
      .filter((one) => !takeDatagram(one.message) && at - one.at <= EARLY_MS).slice(-MAX_EARLY);
    acks.check();
  }

  /**
   * Takes a stream's frames, and the stream's end as the connection's where it is still in use a moment later: the end
   * of the session, which tells the reason, comes after those of its streams.
   * @param {WebTransportBidirectionalStream | Promise<WebTransportBidirectionalStream>} stream @param {Promise<void>} [start] of the reading
   */
  function follow(stream, start) {
    const outlet = createOutlet(stream, received);
    const splitter = createSplitter();
    let inUse = true;
    // The number of the last frame of values that was taken in, and of the last that was acknowledged.
    let taken = 0, told = 0;
    Promise.all([stream, start]).then(([{ readable }]) => read(readable, (chunk) => {
      for (const frame of splitter.push(chunk)) {
        const message = decodeServer(frame);
        if (message.type !== 'values') connection.receive(message);
        else {
          if (message.number !== ++taken) throw malformed('number');
          receiver.apply(message);
        }
        // Whoever is told closes first: a page of Chromium 156 crashes where a server closes a session that has streams.
        if (message.type === 'close') close(message.code, message.reason);
        takeDatagrams([]);
      }
      if (taken > told) say(outlet, { type: 'ack', newest: told = taken, bitmap: 0n });
    })).catch(() => {}).then(() => setTimeout(() => {
      if (inUse) connection.fail(unreachable('The server ended a stream.'));
    }, GRACE_MS));
    return {
      send: outlet.send,
      end() {
        inUse = false;
        outlet.end();
      },
    };
  }

  /** @param {number} closeCode @param {string} reason */
  function close(closeCode, reason) {
    try {
      session.close({ closeCode, reason });
    } catch {
      // It is closed already.
    }
    connection.finish({ code: closeCode, reason });
  }

  // Networks that let TCP live cut UDP off, and say nothing: it is asked sooner.
  connection.quiet = 5000;
  connection.patience = 3000;
  session.closed.then(
    ({ closeCode, reason = '' }) => connection.finish({ code: closeCode || LOST, reason }),
    (error) => connection.finish(closeFor(error)),
  );
  // Whoever has opened the connection has its turn first, and subscribes.
  const turn = given ? nextTurn() : Promise.resolve();
  const shared = given && { send: follow(given, turn).send };
  // The first messages would wait for what another stream costs. It is still the first that is opened here.
  const first = given ? newStream(turn.then(nextTurn)) : Promise.resolve(stream);
  const control = follow(first);
  // The next connection opens it before anything else, and another transport is found where it cannot be.
  within(ASKED_MS, first).catch((error) => {
    asks &&= !connection.open;
    connection.fail(error);
  });

  /** It is not wanted any more, and what is asked for next on its stream is behind that. @param {Asked} message */
  function part(message) {
    if (message.ref) connection.request({ type: 'unsubscribe', channel: message.channel }, shared).catch(() => {});
    message.ref = 0;
  }
  turn.then(() => asked.forEach(part));

  read(session.datagrams.readable, (datagram) => {
    received.datagrams++;
    /** @type {(Frame | Values)[]} */
    let messages;
    try {
      messages = splitDatagram(datagram).map(decodeServer);
    } catch {
      return; // Not one of ours, or of a later version: values that it held come again.
    }
    for (const message of messages) if (message.type === 'values') receiver.arrived(message, acks.has(message.number));
    takeDatagrams(messages);
  });
  return {
    close,
    send: (message, pipe = control) => say(pipe, message),

    async begin(channel, { after, position }) {
      const message = asked.get(channel);
      if (!message || !shared) return { pipe: follow(await newStream(first)) };
      // By now another connection may have got further, or it is another subscription.
      if (message.after !== after || position) part(message);
      const { ref } = message;
      message.ref = 0;
      return { pipe: shared, ref };
    },
  };
}

/**
 * Lets events and painting go first. Timers would be clamped to 4 ms, and to a second in a hidden page.
 * @returns {Promise<void>}
 */
function nextTurn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(port1.close());
    port2.postMessage(null);
  });
}

/**
 * @typedef {import('./discover.js').Discovery['webtransport']} Place
 * @typedef {import('../wire.js').Subscribe & {ref: number}} Asked
 */

/** Whether subscriptions go with the CONNECT. */
let asks = true;

/** @param {import('../fulmar.js').Wanted[]} wanted @returns {[Map<string, Asked>, Uint8Array]} what goes with the CONNECT of it, by channel */
function asking(wanted) {
  /** @type {Map<string, Asked>} */
  const asked = new Map();
  let frames = new Uint8Array();
  for (const { channel, after } of asks ? wanted.slice(0, MAX_ASKED) : []) {
    // One frame that cannot be read would have the whole CONNECT refused: on a stream of its own it is refused alone.
    if (!/^[\w.:/~=@-]{1,255}$/.test(channel)) continue;
    /** @type {Asked} */
    const message = { type: 'subscribe', ref: asked.size + 1, channel, ...(after && { after }) };
    const longer = join([frames, prefixed(encodeClient(message))]);
    if (longer.length > MAX_ASKED_BYTES) break;
    asked.set(channel, message);
    frames = longer;
  }
  return [asked, frames];
}

/** @param {import('../fulmar.js').Placed} options */
export async function openWebTransport(options) {
  const { base, timeout = 8000, attach = false, WebTransport = globalThis.WebTransport } = options;
  if (!WebTransport) throw new FulmarError('unsupported', 'There is no WebTransport here: pages have it over https.');

  // In a microtask, so that what is asked for in the turn in which the client was made goes along.
  if (options.wanted) await null;
  const [asked, frames] = asking(options.wanted?.() ?? []);
  const query = (attach ? '?attach' : '') + (asked.size ? `&subscribe=${toBase64Url(frames)}` : '');
  /** @param {Place} place @returns {Promise<WebTransport & {given?: Promise<WebTransportBidirectionalStream | undefined>}>} a session that is ready, and the server's stream for what was asked */
  const dial = async ({ url, certificate_hashes: hashes = [] }) => {
    /** @type {any} */
    let session;
    try {
      session = new WebTransport(url + query, {
        congestionControl: 'low-latency',
        serverCertificateHashes: hashes[0] && hashes.map(({ value, ...rest }) => ({ ...rest, value: fromBase64(value) })),
      });
      session.closed.catch(() => {});
      /** @type {Datagrams} */
      const datagrams = session.datagrams;
      // The name in the standard, and the one before it.
      datagrams.incomingMaxBufferedDatagrams = datagrams.incomingHighWaterMark = INCOMING_DATAGRAMS;
      // Asked for by now, the server's stream is there as soon as the session is.
      if (asked.size) session.given = session.incomingBidirectionalStreams.getReader().read().then((/** @type {any} */ { value }) => value, () => {});
      await within(timeout, session.ready);
      return session;
    } catch (cause) {
      try {
        session.close();
      } catch {
        // It never opened, or there is none.
      }
      throw unreachable(`No WebTransport session with ${url}: is UDP blocked?`, cause);
    }
  };
  const before = known(base);
  let place = before ?? guessed(base);
  const dialling = place ? dial(place) : Promise.reject();
  // What is only guessed is dialled beside the asking.
  const session = await (before ? within(KNOWN_PATIENCE_MS, dialling) : Promise.reject()).catch(async () => {
    const told = discover(options).then(({ webtransport }) => webtransport);
    // One that opens in the end is wanted by nobody.
    const drop = () => dialling.then((late) => late.close(), () => {});
    try {
      const first = await Promise.race([told, dialling.then(() => /** @type {Place} */ (place), () => told)]);
      // It may be elsewhere by now, or have another certificate; what was guessed in vain is not guessed again.
      if (!place || JSON.stringify(first) !== JSON.stringify(place)) {
        know(base, false);
        drop();
        return dial(place = first);
      }
      know(base, null);
      // Another server may have answered there: whoever uses it comes back, and asks. Its certificate was good enough.
      told.then(({ url }) => {
        if (url === first.url) return;
        know(base, false);
        drop();
      }).catch(() => {});
      return dialling;
    } catch (error) {
      drop();
      throw error;
    }
  });
  know(base, place);

  const stream = await within(ASKED_MS, session.given ?? session.createBidirectionalStream()).catch(() => {
    // The server, or the browser, is not one that can do that.
    asks &&= !asked.size;
  });
  if (!stream) {
    session.close();
    throw unreachable('The first stream did not come.');
  }
  const connection = new InbandConnection('webtransport', 'bin', (inner) => createLink(inner, session, asked, stream));
  // A stream exists for the server only when something has been sent on it, and the first is the control stream.
  if (!attach) connection.probe();
  return connection;
}
