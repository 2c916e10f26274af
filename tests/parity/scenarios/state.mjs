/** State: what a late subscriber is given, changes, removal, and many changes of few keys. */
import assert from 'node:assert/strict';
import { channelIn } from '../server.mjs';

const timeout = 20_000;

async function withOpen(peer, transport, members, use) {
  const id = await peer.open(transport, members);
  try {
    return await use(id);
  } finally {
    await peer.call('close', { id });
  }
}

async function late({ server, peer, transport }) {
  const channel = channelIn('state');
  for (const [key, data] of [['a', 'a1'], ['b', 'b1'], ['c', 'c1'], ['a', 'a2']]) await server.publish(channel, { key, data });
  await server.publish(channel, { data: 'no key' });
  await withOpen(peer, transport, { channels: [channel] }, async (id) => {
    await peer.call('wait', { id, channel, for: { synced: true }, timeout });
    const values = { a: { data: 'a2' }, b: { data: 'b1' }, c: { data: 'c1' }, '': { data: 'no key' } };
    assert.deepEqual(await peer.call('view', { id, channel }), { synced: true, values });
    assert.deepEqual((await peer.call('digest', { id, channel })).controls, ['reset', 'synced']);
    await server.publish(channel, { key: 'b', data: 'b2' });
    await server.publish(channel, { key: 'd', data: 'd1' });
    await peer.call('wait', { id, channel, for: { key: 'b', data: 'b2' }, timeout });
    await peer.call('wait', { id, channel, for: { key: 'd', data: 'd1' }, timeout });
    assert.deepEqual((await peer.call('digest', { id, channel })).controls, ['reset', 'synced'], 'one snapshot');
  });
}

async function removal({ server, peer, transport }) {
  const channel = channelIn('state');
  await server.publish(channel, { key: 'stays', data: 1 });
  await server.publish(channel, { key: 'goes', data: 2 });
  await withOpen(peer, transport, { channels: [channel] }, async (id) => {
    await peer.call('wait', { id, channel, for: { synced: true }, timeout });
    assert.deepEqual((await peer.call('view', { id, channel })).values, { stays: { data: 1 }, goes: { data: 2 } });
    await server.publish(channel, { key: 'goes', removed: true });
    await peer.call('wait', { id, channel, for: { gone: 'goes' }, timeout });
    await withOpen(peer, transport, { channels: [channel] }, async (after) => {
      await peer.call('wait', { id: after, channel, for: { synced: true }, timeout });
      assert.deepEqual((await peer.call('view', { id: after, channel })).values, { stays: { data: 1 } });
    });
    await server.publish(channel, { key: 'goes', data: 3 });
    await peer.call('wait', { id, channel, for: { key: 'goes', data: 3 }, timeout });
  });
}

async function newest({ server, peer, transport }) {
  const channel = channelIn('state');
  const publisher = await server.publisher();
  try {
    await withOpen(peer, transport, { channels: [channel] }, async (id) => {
      await peer.call('wait', { id, channel, for: { synced: true }, timeout });
      const changes = Array.from({ length: 3_000 }, (_, n) => publisher.publish(channel, { key: `k${n % 7}`, data: n }));
      await Promise.all(changes);
      const values = {};
      for (let n = 2_993; n < 3_000; n++) {
        values[`k${n % 7}`] = { data: n };
        await peer.call('wait', { id, channel, for: { key: `k${n % 7}`, data: n }, timeout });
      }
      assert.deepEqual((await peer.call('view', { id, channel })).values, values);
    });
  } finally {
    publisher.close();
  }
}

async function large({ server, peer, transport }) {
  const channel = channelIn('state');
  const values = {};
  for (let n = 0; n < 40; n++) {
    values[`k${n}`] = { data: `${n} ${'x'.repeat(60_000)}` };
    await server.publish(channel, { key: `k${n}`, ...values[`k${n}`] });
  }
  await withOpen(peer, transport, { channels: [channel] }, async (id) => {
    await peer.call('wait', { id, channel, for: { synced: true }, timeout });
    const view = await peer.call('view', { id, channel });
    assert.deepEqual(Object.keys(view.values).sort(), Object.keys(values).sort());
    assert.deepEqual(view.values, values);
  });
}

export const scenarios = [
  { name: 'a late subscriber gets a snapshot, then what changes', run: late },
  { name: 'a removed key is gone, for those there and those who come', run: removal },
  { name: 'the newest value of each key arrives, whatever came between', run: newest },
  { name: 'a snapshot of 2.4 MB is complete', run: large },
];
