/** What a receiver acknowledges of numbered frames, and when (PROTOCOL.md, section 9). */
import { ACK_BITS, ACK_DELAY_MS, ACK_FRAMES, ACK_PAUSE_MS, MAX_ACKS_UNDER_WAY } from './limits.js';

/** @param {(ack: import('./wire.js').Ack) => Promise<unknown>} send is not waited for, unless many are under way */
export function createAcks(send) {
  let newest = 0;
  // Bit i: `newest - i` was taken in.
  let taken = 0n;
  // When to acknowledge, 0 at once; when the first of those was taken in that are not yet acknowledged, and how many there are.
  let due = Infinity, first = 0, owed = 0;
  let last = -Infinity;
  let underWay = 0;
  /** @type {any} */
  let timer;

  /** Acknowledges what is due. Asked for at each arrival too, because timers are late in a hidden page. */
  function check() {
    clearTimeout(timer);
    if (underWay >= MAX_ACKS_UNDER_WAY) return;
    const now = performance.now();
    const wait = Math.max(due, last + ACK_PAUSE_MS) - now;
    if (wait <= 0) {
      due = Infinity;
      owed = 0;
      last = now;
      underWay++;
      send({ type: 'ack', newest, bitmap: taken >> 1n }).catch(() => {}).then(() => {
        underWay--;
        check();
      });
    } else if (wait < Infinity) timer = setTimeout(check, wait);
  }

  /** Whether this frame was taken in; of one too old to be named it is not known. @param {number} number */
  const has = (number) => number <= newest && (taken >> BigInt(newest - number) & 1n) > 0;

  return {
    has,
    check,

    /** Something is sent anyhow: what there is goes along. */
    hurry() {
      if (owed) due = 0;
      check();
    },

    /**
     * A frame has come, perhaps once more.
     * @param {number} number @param {() => boolean} apply takes it in, if it can
     * @returns {boolean} whether it is
     */
    take(number, apply) {
      if (!has(number) && !apply()) return false;
      const ahead = number - newest;
      if (ahead < -ACK_BITS) return true;
      if (ahead > 0) {
        newest = number;
        taken = BigInt.asUintN(ACK_BITS + 1, taken << BigInt(Math.min(ahead, ACK_BITS + 1)));
      }
      taken |= 1n << BigInt(newest - number);
      const now = performance.now();
      if (!owed++) first = now;
      // A number was skipped.
      if (ahead > 1) due = 0;
      else if (due && owed < ACK_FRAMES) due = now + ACK_DELAY_MS;
      else if (due && owed === ACK_FRAMES) due = Math.max(now, first + ACK_DELAY_MS);
      return true;
    },
  };
}
