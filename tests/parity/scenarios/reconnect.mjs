/** Coming back with the cursor after publications happened in between: nothing lost, nothing twice. */
import assert from 'node:assert/strict';
import { channelIn } from '../server.mjs';
import { checksumOf } from './delivery.mjs';

const timeout = 20_000;

async function again({ server, peer, transport }) {
  const events = channelIn('event');
  const state = channelIn('state');
  await server.publish(state, { key: 'removed in between', data: 0 });
  await server.publish(state, { key: 'never changed', data: 'same' });
  const texts = [];
  const values = { 'removed in between': { data: 0 }, 'never changed': { data: 'same' } };
  const publish = async (round, where) => {
    for (let n = 0; n < 3; n++) {
      texts.push(`${round} ${where} ${n}`);
      await server.publish(events, { data: texts.at(-1) });
    }
    values[`${where} ${round}`] = { data: round };
    await server.publish(state, { key: `${where} ${round}`, data: round });
    values.always = { data: `${where} ${round}` };
    await server.publish(state, { key: 'always', ...values.always });
  };
  const arrived = async (id) => {
    await peer.call('wait', { id, channel: events, for: { publications: texts.length }, timeout });
    for (const [key, { data }] of Object.entries(values)) await peer.call('wait', { id, channel: state, for: { key, data }, timeout });
  };

  let id = await peer.open(transport, { channels: [events, state] });
  await peer.call('wait', { id, channel: state, for: { synced: true }, timeout });
  for (let round = 1; round <= 4; round++) {
    await publish(round, 'while there');
    await arrived(id);
    const { cursor } = await peer.call('cursor', { id });
    assert.ok(cursor, 'no cursor');
    await peer.call('close', { id });
    await peer.call('closed', { id, timeout });
    await publish(round, 'in between');
    if (round === 2) {
      delete values['removed in between'];
      await server.publish(state, { key: 'removed in between', removed: true });
    }
    id = await peer.open(transport, { channels: [events, state], after: cursor, continues: id });
    await arrived(id);
    await peer.call('wait', { id, channel: state, for: round >= 2 ? { gone: 'removed in between' } : { synced: true }, timeout });
  }
  const { count, ordered, checksum, controls } = await peer.call('digest', { id, channel: events });
  assert.deepEqual({ count, ordered, checksum, controls }, { count: texts.length, ordered: true, checksum: checksumOf(texts), controls: [] });
  assert.deepEqual((await peer.call('view', { id, channel: state })).values, values);
  assert.deepEqual((await peer.call('digest', { id, channel: state })).controls, ['reset', 'synced'], 'the state was not read anew');
  await peer.call('close', { id });
}

async function elsewhere({ server, peer, transport }) {
  const events = channelIn('event');
  const state = channelIn('state');
  await server.publish(events, { data: 'held' });
  await server.publish(state, { key: 'k', data: 'held' });
  const position = { epoch: 'elsewhere', offset: 7 };
  const id = await peer.open(transport);
  try {
    await Promise.all([events, state].map((channel) => peer.call('subscribe', { id, channel, position })));
    await peer.call('wait', { id, channel: events, for: { control: 'gap' }, timeout });
    await peer.call('wait', { id, channel: events, for: { publications: 1 }, timeout });
    await peer.call('wait', { id, channel: state, for: { synced: true }, timeout });
    assert.deepEqual((await peer.call('kept', { id, channel: events })).map(({ data }) => data), ['held']);
    assert.deepEqual((await peer.call('digest', { id, channel: events })).controls, ['gap']);
    assert.deepEqual((await peer.call('digest', { id, channel: state })).controls, ['reset', 'synced']);
    assert.deepEqual((await peer.call('view', { id, channel: state })).values, { k: { data: 'held' } });
  } finally {
    await peer.call('close', { id });
  }
}

async function anew({ server, peer, transport }) {
  const channel = channelIn('state');
  await server.publish(channel, { key: 'goes', data: 'old' });
  await server.publish(channel, { key: 'changes', data: 'old' });
  const gone = await peer.open(transport, { channels: [channel] });
  await peer.call('wait', { id: gone, channel, for: { synced: true }, timeout });
  await peer.call('close', { id: gone });
  await peer.call('closed', { id: gone, timeout });
  await server.publish(channel, { key: 'goes', removed: true });
  await server.publish(channel, { key: 'changes', data: 'new' });
  // Without a cursor nothing is said of the key that went, but that all are to be forgotten.
  const id = await peer.open(transport, { channels: [channel], continues: gone });
  try {
    await peer.call('wait', { id, channel, for: { key: 'changes', data: 'new' }, timeout });
    await peer.call('wait', { id, channel, for: { synced: true }, timeout });
    assert.deepEqual(await peer.call('view', { id, channel }), { synced: true, values: { changes: { data: 'new' } } });
    assert.deepEqual((await peer.call('digest', { id, channel })).controls, ['reset', 'synced', 'reset', 'synced']);
  } finally {
    await peer.call('close', { id });
  }
}

export const scenarios = [
  { name: 'reconnects from its cursor without loss or repeat', run: again },
  { name: 'coming back without a cursor, what went meanwhile is gone', run: anew },
  { name: 'a position of another epoch is told as gap and reset', run: elsewhere },
];
