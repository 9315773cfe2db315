// Nuxt with @peterbud/nuxt-aegis, which has a server of its own: alone, then with the gateway's /auth in place of the module's.

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startRecorder } from '../../interop/backends.mjs';
import { startAegis, TOKEN_LIFE } from '../aegis.mjs';
import { browserCase } from '../browser.mjs';
import { gatewayBeforeAegis } from '../gateway.mjs';
import { journey } from '../journey.mjs';
import { browser } from '../setup.mjs';

// The page passes its query on to the login.
const PAGE = '/?user=grace';

const alone = await startAegis('aegis');
after(() => alone.stop());

browserCase(browser, 'Nuxt Aegis: the journey, directly', async (page, seen) => {
  await journey(page, seen, siteAt(alone.origin + PAGE, seen));
});

const server = await startAegis('aegis-behind-latchgate');
after(() => server.stop());
const recorder = await startRecorder(server.origin);
after(() => recorder.stop());

for (const [flow, exchanges] of [['cookie', 0], ['code', 1]]) {
  const gateway = await gatewayBeforeAegis(recorder.origin, flow);
  after(() => gateway.stop());

  browserCase(browser, `Nuxt Aegis: the journey, through latchgate with flow = "${flow}"`, async (page, seen) => {
    recorder.take();
    const tokens = new Set();
    await journey(page, seen, { ...siteAt(gateway.origin + PAGE, seen), logoutEndsTokens: true }, async () => {
      tokens.add((await seen.lastAuthorization()).replace('Bearer ', ''));
    });

    assert.ok(tokens.size > 1, 'the page held tokens of the gateway');
    assert.equal(seen.count('POST', '/auth/token'), exchanges);
    const received = recorder.take();
    const headers = JSON.stringify(received.map((request) => request.headers));
    assert.deepEqual([...tokens].filter((token) => headers.includes(token)), [], 'tokens of the gateway at the server');
    assert.ok(!received.some((request) => request.headers.cookie?.includes('latchgate')), 'cookies of the gateway at the server');
    assert.deepEqual(received.filter(({ url }) => url.startsWith('/auth')), [], "the module's own endpoints were not used");
    for (const { headers: { authorization } } of received.filter(({ url }) => url === '/api/items')) {
      const { sub, name, email, iss } = claimsOf(authorization);
      assert.deepEqual({ sub, name, email, iss }, { sub: 'mock:grace', name: 'Grace Hopper', email: 'grace@example.com', iss: 'nuxt-aegis' });
    }
  });
}

function siteAt(start, seen) {
  const button = (page) => page.getByRole('button', { name: 'Sign in' });
  return {
    start,
    logIn: (page) => button(page).click(),
    asksToLogIn: button,
    // The tokens are JWTs: nothing ends them before their time.
    expire: () => sleep((TOKEN_LIFE + 0.5) * 1_000),
    // The module's own: it holds the token that ended.
    refreshes: () => seen.count('POST', '/auth/refresh'),
  };
}

function claimsOf(authorization) {
  return JSON.parse(Buffer.from(authorization.split('.')[1], 'base64url'));
}
