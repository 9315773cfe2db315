import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { echo, events, gateway } from '../setup.mjs';
import { browserCase, cookieHeader, signedInAt } from './steps.mjs';

browserCase('server-sent events arrive one by one while the answer is still open', async (profile) => {
  const page = await signedInAt(profile, '/anything/events');
  await page.evaluate(() => {
    window.source = new EventSource('/events');
    window.next = () => new Promise((resolve, reject) => {
      window.source.onmessage = ({ data }) => resolve(data);
      window.source.onerror = () => reject(new Error('EventSource failed'));
    });
    window.pending = window.next();
  });

  // Each event is sent only after the one before it was seen: a buffered answer would never get there.
  for (const [index, data] of ['first', 'second', 'third'].entries()) {
    if (index > 0) {
      await page.evaluate(() => { window.pending = window.next(); });
      events.send(data);
    }
    assert.equal(await page.evaluate(() => window.pending), data);
  }
});

browserCase('a WebSocket passes text and bytes both ways, with the token at the upgrade', async (profile) => {
  const page = await signedInAt(profile, '/anything/socket');
  echo.upgrades.length = 0;

  const echoed = await page.evaluate(() => new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/echo?room=1`);
    const received = [];
    socket.binaryType = 'arraybuffer';
    socket.onerror = () => reject(new Error('WebSocket failed'));
    socket.onopen = () => {
      socket.send('grüße');
      socket.send(Uint8Array.from({ length: 70_000 }, (_, index) => index % 256));
    };
    socket.onmessage = ({ data }) => {
      received.push(typeof data === 'string' ? data : new Uint8Array(data).every((byte, index) => byte === index % 256) && data.byteLength);
      if (received.length === 2) {
        socket.onclose = ({ code }) => resolve({ received, code });
        socket.close(1000);
      }
    };
  }));
  assert.deepEqual(echoed, { received: ['grüße', 70_000], code: 1000 });
  assert.equal(echo.upgrades.length, 1);
  assert.match(echo.upgrades[0].authorization, /^Bearer [\w-]{43}$/);
  assert.equal(echo.upgrades[0].cookie, undefined);
});

test('a WebSocket without a session is refused at the upgrade', async () => {
  echo.upgrades.length = 0;
  assert.equal(await upgradeStatus({ origin: gateway.origin }), 401);
  assert.equal(echo.upgrades.length, 0);
});

browserCase('a WebSocket of another origin is refused although the cookie is there', async (profile) => {
  await signedInAt(profile, '/anything/hijack');
  const cookie = await cookieHeader(profile);
  echo.upgrades.length = 0;
  assert.equal(await upgradeStatus({ cookie, origin: 'http://evil.example' }), 403);
  assert.equal(echo.upgrades.length, 0);
  assert.equal(await upgradeStatus({ cookie, origin: gateway.origin }), 101);
});

browserCase('a large upload and its echo pass unchanged', async (profile) => {
  const page = await signedInAt(profile, '/anything/upload');
  const identical = await page.evaluate(async () => {
    const body = 'latchgate!'.repeat(300_000);
    const answer = await fetch('/anything/upload', { method: 'POST', body, headers: { 'content-type': 'text/plain' } });
    return (await answer.json()).data === body;
  });
  assert.equal(identical, true);
});

/** The status that answers a WebSocket handshake. */
function upgradeStatus(headers) {
  const socket = new WebSocket(`${gateway.origin.replace('http', 'ws')}/echo`, { headers });
  return new Promise((resolve, reject) => {
    socket.on('open', () => { socket.terminate(); resolve(101); });
    socket.on('unexpected-response', (_request, answer) => { answer.destroy(); resolve(answer.statusCode); });
    socket.on('error', reject);
  });
}
