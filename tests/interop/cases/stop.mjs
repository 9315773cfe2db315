import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { minimalConfig, startGateway } from '../gateway.mjs';
import { eventually, freePort, listen } from '../processes.mjs';
import { exchange } from '../wire.mjs';

for (const signal of ['SIGTERM', 'SIGINT']) {
  test(`${signal} lets a request in flight finish, takes no new one, and ends with exit code 0`, { timeout: 30_000 }, async () => {
    const slow = await startSlow(800);
    const gateway = await startMinimal(`gateway-${signal}`, slow.origin);
    try {
      const answer = fetch(`${gateway.origin}/slow`);
      await slow.asked();
      gateway.signal(signal);
      await eventually(async () => !(await exchange(gateway.origin, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n', { patience: 100 })), 'the port to be closed');

      assert.equal(await (await answer).text(), 'at last');
      assert.deepEqual(await gateway.ended, { code: 0, signal: null });
    } finally {
      await gateway.stop();
      await slow.stop();
    }
  });
}

test('what is not finished within server.drain_timeout is cut off, and the exit code says so', { timeout: 30_000 }, async () => {
  const slow = await startSlow(20_000);
  const gateway = await startMinimal('gateway-cut-off', slow.origin);
  try {
    const answer = fetch(`${gateway.origin}/slow`).then(() => 'answered', () => 'cut off');
    await slow.asked();
    const began = performance.now();
    assert.deepEqual(await gateway.stop(10_000), { code: 1, signal: null });
    const took = performance.now() - began;
    assert.ok(took > 1_900 && took < 5_000, `it took ${Math.round(took)} ms`);
    assert.equal(await answer, 'cut off');
  } finally {
    await gateway.stop();
    await slow.stop();
  }
});

test('after kill -9 it starts again at once on the same port, and idle connections do not delay its end', { timeout: 30_000 }, async () => {
  const slow = await startSlow(0);
  const listenOn = `127.0.0.1:${await freePort()}`;
  const first = await startGateway('gateway-killed', `http://${listenOn}`, minimalConfig(listenOn, slow.origin));
  // Kept alive by the client, so that the port has connections when it is bound again.
  await Promise.all(Array.from({ length: 20 }, () => fetch(`${first.origin}/`)));
  first.signal('SIGKILL');
  await first.ended;

  const second = await startGateway('gateway-again', `http://${listenOn}`, minimalConfig(listenOn, slow.origin));
  assert.equal((await fetch(second.origin)).status, 200);
  const began = performance.now();
  assert.deepEqual(await second.stop(), { code: 0, signal: null });
  assert.ok(performance.now() - began < 1_500, 'an idle connection was waited for');
  await slow.stop();
});

async function startMinimal(name, upstream) {
  const listenOn = `127.0.0.1:${await freePort()}`;
  return startGateway(name, `http://${listenOn}`, minimalConfig(listenOn, upstream));
}

/** A backend that answers `/slow` after `delay` ms. */
async function startSlow(delay) {
  let asked;
  const wasAsked = new Promise((resolve) => { asked = resolve; });
  const server = createServer(async (request, response) => {
    if (request.url === '/slow') {
      asked();
      await sleep(delay, undefined, { ref: false });
    }
    response.end('at last');
  });
  return {
    origin: await listen(server),
    asked: () => wasAsked,
    stop: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}
