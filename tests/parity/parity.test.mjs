/**
 * The same scenarios over each transport, in node, Python, Chromium and Firefox.
 *
 * A scenario is a file in scenarios/: `run({ server, peer, transport })`, or `pairs({ server, peers })` where it
 * needs several transports at once and yields the tests it consists of.
 */
import { after, before, describe, test } from 'node:test';
import { Server } from './server.mjs';
import { labelOf, startPeers, stopPeers } from './peers.mjs';
import * as channels from './scenarios/channels.mjs';
import * as closing from './scenarios/closing.mjs';
import * as delivery from './scenarios/delivery.mjs';
import * as loss from './scenarios/loss.mjs';
import * as payloads from './scenarios/payloads.mjs';
import * as reconnect from './scenarios/reconnect.mjs';
import * as resuming from './scenarios/resuming.mjs';
import * as state from './scenarios/state.mjs';
import * as cursors from './scenarios/cursors.mjs';

const server = await Server.start();
const peers = await startPeers(server.base).catch(async (error) => {
  await server.stop();
  throw error;
});

after(async () => {
  await stopPeers(peers);
  await server.stop();
});

const only = process.env.FULMAR_SCENARIO;

for (const peer of peers) {
  describe(peer.name, () => {
    for (const transport of peer.transports) {
      describe(labelOf(transport), () => {
        for (const { scenarios } of [payloads, state, channels, closing, reconnect, resuming, delivery, loss]) {
          for (const { name, applies = () => true, run } of scenarios) {
            if (only && !name.includes(only)) continue;
            if (applies(transport)) test(name, { timeout: 180_000 }, () => run({ server, peer, transport }));
          }
        }
      });
    }
  });
}

describe('reading on from a cursor taken on another transport', () => {
  const every = peers.flatMap((peer) => peer.transports.map((transport) => ({ peer, transport })));
  if (only && !'cursors'.includes(only)) return;
  let taken;
  before(async () => {
    taken = await cursors.take(server, every);
  });
  for (const { peer, transport } of every) {
    test(`${peer.name} ${labelOf(transport)}`, { timeout: 180_000 }, () => cursors.readOn(taken, peer, transport));
  }
});
