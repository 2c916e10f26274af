/**
 * What a client has measured, over all of its connections.
 *
 * @typedef {object} Stats
 * @property {import('./fulmar.js').TransportName | null} transport that carries the session now
 * @property {import('./client.js').Status} status
 * @property {number} since when the status is what it is, in ms since 1970
 * @property {{last: number, least: number, smoothed: number} | null} rtt of the present connection, in ms: from a
 *   heartbeat, an attach or a publication to its answer; on SSE and poll from a request that is answered at once, which may
 *   have had to connect first. `smoothed` as in RFC 9002 (each counts an eighth). null before the first
 * @property {number | null} jitter ms by which the transit of publications varies, from their `time` to their arrival: the
 *   mean of RFC 3550 (each difference to the one before counts a sixteenth). What was published before the present
 *   connection (a snapshot, what was missed) does not count; the server's pacing of state does. null before the second
 * @property {number | null} stateAge ms since the `time` of the newest value of state that is held, by this machine's clock
 *   against the server's: wrong by as much as these differ, and 0 where it would be less. null without any
 * @property {{received: number, late: number, lost: number, repaired: number}} datagrams `received`: all. The others are of
 *   those that bring state, which are numbered. `late`: frames that came behind one of a higher number. `lost`: numbers left
 *   out so far; one that comes late is none any more. `repaired`: values that had been published by the time of a loss, and
 *   came in a frame that was sent after it
 * @property {{received: number, sent: number}} bytes of what the transport carries, without its own headers; characters
 *   where it is JSON
 * @property {number} publications received, with those that were known already
 * @property {number} reconnects how often the connection was lost
 * @property {number} moves how often a better transport took over
 * @property {number} gaps told, over all channels
 * @property {number} pending publications that wait for their answers
 * @property {{transport: import('./fulmar.js').TransportName, outcome: 'dialling' | 'open' | 'failed', at: number,
 *   ms?: number, reason?: string}[]} attempts what became of each transport when it was tried last: `at` in ms since 1970, for
 *   `ms`; `reason`: why it is not used
 *
 * @typedef {import('./connection.js').Counts} Counts
 */

/** What of a publication and of the one before it jitter is made of: as RFC 3550, section 6.4.1. */
const JITTER_WEIGHT = 1 / 16;

export class Meter {
  /** @type {number | null} */
  jitter = null;
  /** Of connections that are closed. @type {Counts} */
  #past = { bytes: 0, publications: 0, datagrams: 0, late: 0, lost: 0, repaired: 0, sent: 0 };
  /** @type {Set<import('./fulmar.js').AnyConnection>} */
  #open = new Set();
  /** When the present connection was taken, by `performance.now()`. */
  #began = 0;
  /** The shortest transit, and so how far the clocks lie apart at least. */
  #least = Infinity;
  #before = { time: -Infinity, transit: 0 };

  /** @param {import('./fulmar.js').AnyConnection} connection that is used from now on */
  use(connection) {
    this.#began = performance.now();
    this.#open.add(connection);
    connection.closed.then(() => {
      add(this.#past, connection);
      this.#open.delete(connection);
    });
  }

  /** @param {number} time of a publication that came just now */
  arrived(time) {
    const transit = performance.now() - time;
    this.#least = Math.min(this.#least, transit);
    const isNew = (/** @type {number} */ published) => published + this.#least >= this.#began;
    if (!isNew(time)) return;
    if (isNew(this.#before.time)) {
      const jitter = this.jitter ?? 0;
      this.jitter = jitter + JITTER_WEIGHT * (Math.abs(transit - this.#before.transit) - jitter);
    }
    this.#before = { time, transit };
  }

  /** @returns {Counts} */
  get counts() {
    const sum = { ...this.#past };
    for (const connection of this.#open) add(sum, connection);
    return sum;
  }
}

/** @param {any} sum @param {{received: any}} connection */
function add(sum, { received }) {
  for (const name in sum) sum[name] += received[name];
}
