/** Several channels on one connection: each in its own order, joined and left at any time. */
import assert from 'node:assert/strict';
import { channelIn } from '../server.mjs';
import { checksumOf } from './delivery.mjs';

const timeout = 20_000;

async function several({ server, peer, transport }) {
  const channels = Array.from({ length: 12 }, () => channelIn('event'));
  const states = Array.from({ length: 3 }, () => channelIn('state'));
  const id = await peer.open(transport, { channels: [...channels, ...states] });
  const publisher = await server.publisher();
  try {
    const sent = [];
    for (let n = 0; n < 100; n++) {
      for (const channel of channels) sent.push(publisher.publish(channel, { data: `${channel} ${n}` }));
      for (const channel of states) sent.push(publisher.publish(channel, { key: `k${n % 3}`, data: n }));
    }
    await Promise.all(sent);
    for (const channel of channels) {
      await peer.call('wait', { id, channel, for: { publications: 100 }, timeout });
      const { count, ordered, checksum, controls } = await peer.call('digest', { id, channel });
      const texts = Array.from({ length: 100 }, (_, n) => `${channel} ${n}`);
      assert.deepEqual({ count, ordered, checksum, controls }, { count: 100, ordered: true, checksum: checksumOf(texts), controls: [] });
    }
    for (const channel of states) {
      for (const [key, data] of [['k0', 99], ['k1', 97], ['k2', 98]]) await peer.call('wait', { id, channel, for: { key, data }, timeout });
    }
  } finally {
    publisher.close();
    await peer.call('close', { id });
  }
}

async function joinAndLeave({ server, peer, transport }) {
  const [first, second, third] = Array.from({ length: 3 }, () => channelIn('event'));
  const id = await peer.open(transport, { channels: [first] });
  try {
    await server.publish(first, { data: 'before' });
    await peer.call('wait', { id, channel: first, for: { publications: 1 }, timeout });
    await peer.call('subscribe', { id, channel: second });
    await server.publish(first, { data: 'both' });
    await server.publish(second, { data: 'both' });
    for (const [channel, publications] of [[first, 2], [second, 1]]) await peer.call('wait', { id, channel, for: { publications }, timeout });
    await peer.call('unsubscribe', { id, channel: first });
    await server.publish(first, { data: 'to nobody' });
    await peer.call('subscribe', { id, channel: third });
    for (const channel of [second, third]) await server.publish(channel, { data: 'after' });
    for (const [channel, publications] of [[second, 2], [third, 1]]) await peer.call('wait', { id, channel, for: { publications }, timeout });
    const kept = await peer.call('kept', { id, channel: first });
    assert.deepEqual(kept.map(({ data }) => data), ['before', 'both'], 'the channel that was left');
    // It can be joined again, from now on.
    await peer.call('subscribe', { id, channel: first });
    await server.publish(first, { data: 'again' });
    await peer.call('wait', { id, channel: first, for: { publications: 3 }, timeout });
    assert.equal((await peer.call('kept', { id, channel: first })).at(-1).data, 'again');
    assert.deepEqual((await peer.call('kept', { id, channel: second })).map(({ data }) => data), ['both', 'after']);
  } finally {
    await peer.call('close', { id });
  }
}

export const scenarios = [
  { name: 'fifteen channels at once', run: several },
  { name: 'channels are joined and left while others go on', run: joinAndLeave },
];
