import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { gateway, userinfo } from '../setup.mjs';
import { exchange, statusOf } from '../wire.mjs';
import { browserCase, cookieHeader, signedInAt } from './steps.mjs';

const { host } = new URL(gateway.origin);

test('garbage on the wire gets 400 or a closed connection, and the gateway goes on', { timeout: 60_000 }, async () => {
  const garbage = [
    randomBytes(4096),
    Buffer.alloc(4096),
    '\r\n\r\n\r\n',
    'GET\r\n\r\n',
    'GET / HTTP/9.9\r\n\r\n',
    `GET / HTTP/1.1\r\nHost: ${host}\r\nHost: ${host}\r\n\r\n`,
    'GET / HTTP/1.1\r\n\r\n',
    `GET / HTTP/1.1\r\nHost: ${host}\r\nBad Name: x\r\n\r\n`,
    `GET / HTTP/1.1\r\nHost: ${host}\r\nX: a\0b\r\n\r\n`,
    `POST /html HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    `POST /html HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef`,
    `POST /html HTTP/1.1\r\nHost: ${host}\r\nContent-Length: -1\r\n\r\n`,
    `POST /html HTTP/1.1\r\nHost: ${host}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n`,
    `POST /html HTTP/1.1\r\nHost: ${host}\r\nTransfer-Encoding: gzip\r\n\r\n`,
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is not a frame at all',
    `GET /anything/%2e%2e/html HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    `GET /anything%2fhtml HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    `GET /%zz HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    `GET http://evil.example/html HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    `CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n`,
  ];
  for (const bytes of garbage) {
    const status = await statusOf(gateway.origin, bytes);
    assert.ok(status === null || (status >= 400 && status < 500), `${status} for ${JSON.stringify(String(bytes).slice(0, 80))}`);
  }
  assert.equal((await fetch(`${gateway.origin}/html`)).status, 200);
});

test('headers beyond limits.header_bytes are 431, however they are cut', async () => {
  const request = (lines) => `GET /html HTTP/1.1\r\nHost: ${host}\r\n${lines}\r\n\r\n`;
  for (const lines of [
    `X-Long: ${'x'.repeat(40_000)}`,
    Array.from({ length: 80 }, (_, index) => `X-${index}: ${'x'.repeat(500)}`).join('\r\n'),
    Array.from({ length: 5_000 }, (_, index) => `X-${index}: y`).join('\r\n'),
  ]) {
    assert.equal(await statusOf(gateway.origin, request(lines)), 431, `${lines.length} bytes of headers`);
  }
  assert.equal(await statusOf(gateway.origin, `GET /html?${'x'.repeat(40_000)} HTTP/1.1\r\nHost: ${host}\r\n\r\n`), 431);
  assert.equal(await statusOf(gateway.origin, `GET /html?${'x'.repeat(100_000)} HTTP/1.1\r\nHost: ${host}\r\n\r\n`), 414);
  // A client that is still sending may meet the closed connection before the answer.
  assert.ok([431, null].includes(await statusOf(gateway.origin, request(`X-Longer: ${'x'.repeat(1_000_000)}`))));
  assert.equal(await statusOf(gateway.origin, request(`X-Fine: ${'x'.repeat(4_000)}`)), 200);
});

test('garbage cookies are no session, and no trouble', async () => {
  const values = ['', '=', 'x', '%00', '"', '\xff\xfe', 'a'.repeat(43), 'A'.repeat(8_000), '../../etc/passwd', `${'a'.repeat(43)}; latchgate=${'b'.repeat(43)}`];
  for (const value of values) {
    const ask = (path) => statusOf(gateway.origin, Buffer.from(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nCookie: latchgate=${value}\r\n\r\n`, 'latin1'));
    assert.equal(await ask('/headers'), 200, `a public page with ${value.slice(0, 20)}`);
    assert.equal(await ask('/auth/me'), 401);
    assert.equal(await ask('/me'), 401);
  }
  assert.deepEqual(userinfo.take(), []);
});

browserCase('a second session cookie cannot shadow the real one', async (profile) => {
  await signedInAt(profile, '/anything/shadow');
  const cookie = await cookieHeader(profile);
  const me = (cookies) => fetch(`${gateway.origin}/auth/me`, { headers: { cookie: cookies } });
  assert.equal((await me(`latchgate=${'a'.repeat(43)}; ${cookie}`)).status, 200);
  assert.equal((await me(`${cookie}; latchgate=garbage`)).status, 200);
});

test('a forged, missing or doubled state is 400 and gives no session', async () => {
  const login = await fetch(`${gateway.origin}/auth/corp`, { redirect: 'manual' });
  const cookie = login.headers.getSetCookie().map((line) => line.split(';')[0]).join('; ');
  const state = new URL(login.headers.get('location')).searchParams.get('state');
  const other = new URL((await fetch(`${gateway.origin}/auth/corp`, { redirect: 'manual' })).headers.get('location')).searchParams.get('state');

  for (const [query, headers] of [
    ['code=x', { cookie }],
    ['code=x&state=', { cookie }],
    ['code=x&state=forged', { cookie }],
    [`code=x&state=${state.slice(0, -1)}`, { cookie }],
    [`code=x&state=${other}`, { cookie }],
    [`code=x&state=${state}&state=${state}`, { cookie }],
    [`code=x&state=${state}`, {}],
    ['code=x&state=%00%ff%0d%0aSet-Cookie:%20a=b', { cookie }],
    [`code=x&state=${'s'.repeat(20_000)}`, { cookie }],
  ]) {
    const answer = await fetch(`${gateway.origin}/auth/corp?${query}`, { redirect: 'manual', headers });
    assert.equal(answer.status, 400, query.slice(0, 60));
    assert.equal(answer.headers.get('cache-control'), 'no-store');
    assert.equal((await answer.json()).code, 'login_invalid');
    assert.ok(!answer.headers.getSetCookie().some((line) => line.startsWith('latchgate=')));
  }
});

test('a request that does not end within limits.header_timeout is cut off', { timeout: 30_000 }, async () => {
  const began = performance.now();
  const answer = await exchange(gateway.origin, `GET /html HTTP/1.1\r\nHost: ${host}\r\n`, { patience: 10_000 });
  assert.ok(performance.now() - began < 9_000, 'it stayed open');
  assert.doesNotMatch(answer, /^HTTP\/1\.1 [25]/);
});
