/** A session goes on from its client's own positions, over each of the peer's transports that carry requests in-band. */
import assert from 'node:assert/strict';
import { entryOf } from '../../../client/js/cursor.js';
import { channelIn } from '../server.mjs';
import { checksumOf } from './delivery.mjs';

const timeout = 20_000;
const inband = ({ transport }) => transport === 'websocket' || transport === 'webtransport';

async function moving({ server, peer, transport }) {
  const route = peer.transports.filter(inband);
  const from = route.indexOf(transport);
  const [events, state] = ['event', 'state'].map(channelIn);
  const session = await server.session();
  const texts = [];
  const values = {};
  const publish = async (round, where) => {
    for (let n = 0; n < 3; n++) {
      texts.push(`${round} ${where} ${n}`);
      await server.publish(events, { data: texts.at(-1) });
      await server.publish(state, { key: 'always', data: texts.at(-1) });
    }
    values.always = { data: texts.at(-1) };
    values[`${where} ${round}`] = { data: round };
    await server.publish(state, { key: `${where} ${round}`, data: round });
  };
  const arrived = async (id) => {
    await peer.call('wait', { id, channel: events, for: { publications: texts.length }, timeout });
    for (const [key, { data }] of Object.entries(values)) await peer.call('wait', { id, channel: state, for: { key, data }, timeout });
  };

  let id = await peer.open(transport);
  await peer.call('attach', { id, session: session.id, secret: session.secret });
  for (const channel of [events, state]) await peer.call('subscribe', { id, channel });
  await peer.call('wait', { id, channel: state, for: { synced: true }, timeout });
  for (let round = 1; round <= route.length + 1; round++) {
    await publish(round, 'while there');
    await arrived(id);
    const { cursor } = await peer.call('cursor', { id });
    const positions = [events, state].map((channel) => {
      const { epoch, offset } = entryOf(cursor, channel);
      return { channel, epoch, offset };
    });
    await peer.call('close', { id });
    await peer.call('closed', { id, timeout });
    await publish(round, 'in between');
    id = await peer.open(route[(from + round) % route.length], { continues: id });
    await peer.call('attach', { id, session: session.id, secret: session.secret, positions });
    await arrived(id);
  }
  const { count, ordered, checksum, controls } = await peer.call('digest', { id, channel: events });
  assert.deepEqual({ count, ordered, checksum, controls }, { count: texts.length, ordered: true, checksum: checksumOf(texts), controls: [] });
  assert.deepEqual((await peer.call('view', { id, channel: state })).values, values);
  assert.deepEqual((await peer.call('digest', { id, channel: state })).controls, ['reset', 'synced'], 'the state was not read anew');
  await peer.call('close', { id });
}

export const scenarios = [
  { name: 'a session goes on from its client\'s positions', applies: inband, run: moving },
];
