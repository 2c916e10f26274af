/** Text, JSON and binary come back as they were published, from outside and over the transport itself. */
import assert from 'node:assert/strict';
import { channelIn } from '../server.mjs';

const bytes = Buffer.from(Array.from({ length: 256 }, (_, n) => n)).toString('base64');

const PAYLOADS = [
  { data: 'text' },
  { data: '' },
  { data: 'grüße \u{1f426} "quoted"\n\r\n\t\u0001\u2028\u2029\\ end' },
  { data: '{"looks":"like JSON"}' },
  { data: null },
  { data: false },
  { data: 0 },
  { data: -1.5e-7 },
  { data: [] },
  { data: { nested: [1, { deep: [null, true] }], 'ключ': 'значение', '': 0 } },
  { b64: '' },
  { b64: bytes },
  { b64: Buffer.alloc(65_536, 7).toString('base64') },
  { data: 't'.repeat(65_536) },
];

async function check(peer, transport, publish) {
  const channel = channelIn('event');
  const id = await peer.open(transport, { channels: [channel] });
  try {
    const published = [];
    for (const payload of PAYLOADS) published.push(await publish(id, channel, payload));
    await peer.call('wait', { id, channel, for: { publications: PAYLOADS.length }, timeout: 20_000 });
    const kept = await peer.call('kept', { id, channel });
    assert.equal(kept.length, PAYLOADS.length);
    for (const [n, { epoch, offset, key, ...content }] of kept.entries()) {
      assert.deepEqual(content, PAYLOADS[n]);
      assert.deepEqual({ epoch, offset }, { epoch: published[n].epoch, offset: published[n].offset });
    }
  } finally {
    await peer.call('close', { id });
  }
}

export const scenarios = [
  {
    name: 'payloads published from outside come back',
    run: ({ server, peer, transport }) => check(peer, transport, (id, channel, payload) => server.publish(channel, payload)),
  },
  {
    name: 'payloads published over the transport come back',
    run: ({ peer, transport }) => check(peer, transport, (id, channel, payload) => peer.call('publish', { id, channel, ...payload })),
  },
];
