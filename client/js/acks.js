/** What a receiver acknowledges of numbered frames, and when (PROTOCOL.md, section 9). Times are in ms, of any clock. */
import { ACK_BITS, ACK_DELAY_MS, ACK_FRAMES, ACK_PAUSE_MS } from './limits.js';

export function createAcks() {
  let newest = 0;
  // Those that were taken in, of the newest and as many before it as can be told.
  const taken = new Set();
  let dueAt = Infinity;
  // When the first of those was taken in that are not yet acknowledged, and how many there are.
  let first = 0, owed = 0;
  // A number was skipped, or something is sent anyhow.
  let hurried = false;
  let last = -Infinity;

  /** Something is sent anyhow: what there is goes along. @param {number} now */
  function hurry(now) {
    if (!owed) return;
    if (!hurried) dueAt = now;
    hurried = true;
  }

  /** When to acknowledge; Infinity while there is nothing to. */
  const due = () => Math.max(dueAt, last + ACK_PAUSE_MS);

  return {
    hurry,
    due,

    /** Whether this frame was taken in; of one too old to be named it is not known. @param {number} number @returns {boolean} */
    has: (number) => taken.has(number),

    /** A frame was taken in, or came once more. @param {number} number @param {number} now */
    take(number, now) {
      const ahead = number - newest;
      if (ahead < -ACK_BITS) return;
      newest = Math.max(newest, number);
      taken.add(number);
      for (const one of taken) if (one < newest - ACK_BITS) taken.delete(one);
      if (!owed++) first = now;
      if (ahead > 1) hurry(now);
      else if (hurried) return;
      else if (owed < ACK_FRAMES) dueAt = now + ACK_DELAY_MS;
      else if (owed === ACK_FRAMES) dueAt = Math.max(now, first + ACK_DELAY_MS);
    },

    /** @param {number} now @returns {{newest: number, bitmap: bigint} | null} null before it is due */
    next(now) {
      if (due() > now) return null;
      dueAt = Infinity;
      owed = 0;
      hurried = false;
      last = now;
      // Bit i: `newest - 1 - i` was taken in.
      let bitmap = 0n;
      for (const number of taken) if (number < newest) bitmap |= 1n << BigInt(newest - 1 - number);
      return { newest, bitmap };
    },
  };
}
/** @typedef {ReturnType<typeof createAcks>} Acks */
