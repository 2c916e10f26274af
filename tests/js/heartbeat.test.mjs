import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Heartbeat } from '../../client/js/heartbeat.js';
import { Line, clock } from './memory.mjs';

/** A connection of which 10 s of silence are too many, and 4 s for an answer. */
function beating(context, { answers = true } = {}) {
  const time = clock(context);
  const line = new Line('websocket', (_, { type, ref }) => type === 'ping' && state.answers && line.say({ type: 'pong', ref }));
  Object.assign(line, { quiet: 10_000, patience: 4000 });
  const state = { answers, lost: [] };
  const heartbeat = new Heartbeat(line, () => {
    state.lost.push(time.now);
    heartbeat.stop();
  });
  heartbeat.start();
  context.after(() => heartbeat.stop());
  const began = time.now;
  return { time, line, state, heartbeat, began, pings: () => line.said.length };
}

test('who is heard is not asked', async (context) => {
  const { time, line, state, pings } = beating(context);
  for (let i = 0; i < 10; i++) {
    await time.pass(9000, 500);
    line.say({ type: 'ping', ref: 1 });
  }
  assert.equal(pings(), 10, 'answers to the server alone');
  assert.ok(line.said.every(({ type }) => type === 'pong'));
  assert.deepEqual(state.lost, []);
});

test('who is quiet is asked, and is there when it answers', async (context) => {
  const { time, state, pings } = beating(context);
  await time.pass(9900);
  assert.equal(pings(), 0);
  await time.pass(200);
  assert.equal(pings(), 1);
  await time.pass(60_000, 100);
  assert.deepEqual(state.lost, []);
  assert.ok(pings() >= 4 && pings() <= 7, `${pings()}`);
});

test('who does not answer in time is lost, once', async (context) => {
  const { time, state, began } = beating(context, { answers: false });
  await time.pass(13_900);
  assert.deepEqual(state.lost, []);
  await time.pass(60_000, 100);
  assert.equal(state.lost.length, 1);
  assert.ok(state.lost[0] - began <= 14_200, `${state.lost[0] - began}`);
});

test('whatever is heard is an answer', async (context) => {
  const { time, line, state } = beating(context, { answers: false });
  await time.pass(10_100);
  await time.pass(3000);
  line.say({ type: 'gap', channel: 'event:a', epoch: 'e', offset: 1 });
  await time.pass(5000);
  assert.deepEqual(state.lost, []);
});

test('a timer that overslept asks first: what came meanwhile may still wait to be read', async (context) => {
  const { time, state, pings } = beating(context);
  time.sleep(3_600_000);
  await time.pass(10_050);
  assert.equal(pings(), 1);
  await time.pass(5000);
  assert.deepEqual(state.lost, []);
  // The same while an answer is due.
  state.answers = false;
  await time.pass(7000);
  assert.equal(pings(), 2);
  time.sleep(3_600_000);
  state.answers = true;
  await time.pass(4100);
  assert.equal(pings(), 3);
  await time.pass(4100);
  assert.deepEqual(state.lost, []);
});

test('it can be asked for at once', async (context) => {
  const { time, heartbeat, state, pings } = beating(context, { answers: false });
  await time.pass(50);
  assert.equal(heartbeat.ask(), true);
  assert.equal(pings(), 1);
  await time.pass(4100);
  assert.equal(state.lost.length, 1);
});

test('once stopped it asks nothing', async (context) => {
  const { time, heartbeat, pings, state } = beating(context);
  heartbeat.stop();
  await time.pass(60_000, 1000);
  assert.deepEqual([pings(), state.lost], [0, []]);
});

test('a connection that cannot be asked is lost when it is quiet for too long', async (context) => {
  const { time, line, state } = beating(context);
  line.probe = () => false;
  await time.pass(10_100);
  assert.equal(state.lost.length, 1);
});
