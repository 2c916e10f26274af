/** Ordered delivery to many subscribers: nothing lost, nothing twice. */
import assert from 'node:assert/strict';
import { channelIn } from '../server.mjs';

const EVENTS = 10_000;
/** Fewer than the 10,000 a channel holds, so that no subscriber can fall off its history. */
const WINDOW = 2_000;

/** A page has six HTTP/1.1 connections to an origin; two stay free for what else it asks for. */
function subscribersOf(peer, { transport }) {
  return peer.browser && ['sse', 'poll'].includes(transport) ? 4 : 50;
}

export const payloadOf = (n) => `event ${n} ${'abcdefghij'.slice(n % 10)}`;

/** What an agent's checksum of these texts must be. */
export function checksumOf(texts) {
  let sum = 0x811c9dc5;
  for (const byte of Buffer.from(texts.map((text) => `${text}\n`).join(''))) sum = Math.imul(sum ^ byte, 0x01000193) >>> 0;
  return sum;
}

async function run({ server, peer, transport }) {
  const channel = channelIn('event');
  const ids = [];
  for (let n = 0; n < subscribersOf(peer, transport); n++) ids.push(await peer.open(transport, { channels: [channel] }));
  const publisher = await server.publisher();
  try {
    const published = [];
    for (let from = 0; from < EVENTS; from += WINDOW) {
      const window = Array.from({ length: WINDOW }, (_, n) => publisher.publish(channel, { data: payloadOf(from + n) }));
      published.push(...(await Promise.all(window)));
      const wanted = { publications: from + WINDOW };
      await peer.all(ids.map((id) => ({ op: 'wait', id, channel, for: wanted, timeout: 60_000 })));
    }
    const expected = {
      count: EVENTS,
      first: { epoch: published[0].epoch, offset: published[0].offset },
      last: { epoch: published.at(-1).epoch, offset: published.at(-1).offset },
      ordered: true,
      checksum: checksumOf(Array.from({ length: EVENTS }, (_, n) => payloadOf(n))),
      controls: [],
    };
    const digests = await peer.all(ids.map((id) => ({ op: 'digest', id, channel })));
    for (const [n, digest] of digests.entries()) assert.deepEqual(digest, expected, `subscriber ${n + 1} of ${ids.length}`);
  } finally {
    publisher.close();
    await peer.all(ids.map((id) => ({ op: 'close', id })));
  }
}

export const scenarios = [{ name: `delivers ${EVENTS} events in order to many subscribers`, run }];
