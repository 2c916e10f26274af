/** A cursor is good on any transport: each reads on from the cursors of all others. */
import assert from 'node:assert/strict';
import { channelIn } from '../server.mjs';
import { labelOf } from '../peers.mjs';

const timeout = 20_000;
const BEFORE = ['one', 'two', 'three'];
const AFTER = ['four', 'five', 'six'];

/** Each transport reads the same beginning and leaves its cursor; then more is published. */
export async function take(server, every) {
  const events = channelIn('event');
  const state = channelIn('state');
  await server.publish(state, { key: 'changed', data: 'old' });
  await server.publish(state, { key: 'removed', data: 'old' });
  await server.publish(state, { key: 'same', data: 'same' });
  const start = await server.publish(events, { data: 'zero' });
  for (const data of BEFORE) await server.publish(events, { data });
  const taken = [];
  for (const { peer, transport } of every) {
    const id = await peer.open(transport);
    await Promise.all([
      peer.call('subscribe', { id, channel: events, position: { epoch: start.epoch, offset: start.offset } }),
      peer.call('subscribe', { id, channel: state }),
    ]);
    await peer.call('wait', { id, channel: events, for: { publications: BEFORE.length }, timeout });
    await peer.call('wait', { id, channel: state, for: { synced: true }, timeout });
    const { cursor } = await peer.call('cursor', { id });
    assert.ok(cursor, `${peer.name} ${labelOf(transport)} gave no cursor`);
    taken.push({ from: `${peer.name} ${labelOf(transport)}`, cursor });
    await peer.call('close', { id });
  }
  for (const data of AFTER) await server.publish(events, { data });
  await server.publish(state, { key: 'changed', data: 'new' });
  await server.publish(state, { key: 'removed', removed: true });
  return { events, state, taken };
}

export async function readOn({ events, state, taken }, peer, transport) {
  assert.ok(taken.length >= peer.transports.length);
  for (const { from, cursor } of taken) {
    const id = await peer.open(transport, { channels: [events, state], after: cursor });
    try {
      await peer.call('wait', { id, channel: events, for: { publications: AFTER.length }, timeout });
      await peer.call('wait', { id, channel: state, for: { key: 'changed', data: 'new' }, timeout });
      await peer.call('wait', { id, channel: state, for: { removal: 'removed' }, timeout });
      const kept = await peer.call('kept', { id, channel: events });
      assert.deepEqual(kept.map(({ data }) => data), AFTER, `events after the cursor of ${from}`);
      // WebTransport repeats on the stream what it sent by datagram.
      const changes = new Map((await peer.call('kept', { id, channel: state })).map(({ key, data, removed }) => [key, removed ?? data]));
      assert.deepEqual(changes, new Map([['changed', 'new'], ['removed', true]]), `state after the cursor of ${from}`);
      for (const channel of [events, state]) {
        assert.deepEqual((await peer.call('digest', { id, channel })).controls, [], `controls after the cursor of ${from}`);
      }
    } finally {
      await peer.call('close', { id });
    }
  }
}
