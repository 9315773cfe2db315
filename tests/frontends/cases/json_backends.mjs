// Front ends of a JSON backend with a login of its own: each alone with its backend, then with the gateway between.

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startBackend } from '../backend.mjs';
import { browserCase, held, keep } from '../browser.mjs';
import { jsonFrontEnds, logIn } from '../frontends.mjs';
import { gatewayBefore } from '../gateway.mjs';
import { journey, press, signedIn } from '../journey.mjs';
import { browser } from '../setup.mjs';

for (const frontEnd of jsonFrontEnds) {
  const backend = await startBackend(`${frontEnd.shape}-backend`, frontEnd);
  after(() => backend.stop());
  const gateway = await gatewayBefore(backend, frontEnd.shape);
  after(() => gateway.stop());

  const siteAt = (start) => ({
    start,
    logIn,
    asksToLogIn: (page) => page.getByLabel('Password'),
    expire: backend.expire,
    refreshes: async () => received(await backend.report(), 'POST', frontEnd.refresh).length,
    logoutEndsTokens: true,
  });

  const direct = siteAt(backend.origin);
  // Each of them refreshes again for a 401 that comes late, or for every one. The gateway does not.
  const gatewayed = { ...siteAt(gateway.origin), refreshesOnce: true };

  browserCase(browser, `${frontEnd.name}: the journey, directly`, async (page, seen) => {
    await backend.reset();
    const inPage = new Set();
    await journey(page, seen, direct, async () => {
      for (const token of frontEnd.tokensIn(await held(page)).filter(Boolean)) inPage.add(token);
    });

    // What the gateway must keep out is found where there is none.
    const { tokens } = await backend.report();
    assert.ok(inPage.size >= 2);
    assert.deepEqual([...inPage].filter((token) => !tokens.includes(token)), []);
  });

  browserCase(browser, `${frontEnd.name}: the journey, through latchgate`, async (page, seen) => {
    await backend.reset();
    const standIns = new Set();
    await journey(page, seen, gatewayed, async () => {
      const { tokens } = await backend.report();
      const inPage = await held(page);
      for (const standIn of frontEnd.tokensIn(inPage).filter(Boolean)) standIns.add(standIn);
      for (const token of [...tokens, ...standIns]) keep(token);
      const known = JSON.stringify(inPage) + await seen.received();
      assert.ok(tokens.length > 0);
      assert.deepEqual(tokens.filter((token) => known.includes(token)), [], 'real tokens in the browser');
    });

    assert.ok(standIns.size >= 2, 'the front end held stand-ins');
    const { requests } = await backend.report();
    const atBackend = JSON.stringify(requests);
    assert.deepEqual([...standIns].filter((standIn) => atBackend.includes(standIn)), [], 'stand-ins at the backend');
    assert.deepEqual(requests.flatMap(({ headers }) => valuesOf(headers, 'cookie')).filter((value) => value.includes('latchgate')), []);
    for (const { headers } of received({ requests }, 'GET', '/api/items')) {
      assert.match(valuesOf(headers, 'authorization').join(), /^Bearer [\w.-]+$/);
    }
  });

  for (const [how, site] of [['directly', direct], ['through latchgate', gatewayed]]) {
    browserCase(browser, `${frontEnd.name}: a wrong password is refused in the backend's words, ${how}`, async (page) => {
      await backend.reset();
      await page.goto(site.start);
      await logIn(page, 'wrong');
      await page.getByText(frontEnd.refusal).waitFor();
      assert.deepEqual(frontEnd.tokensIn(await held(page)).filter(Boolean), []);
      assert.deepEqual(received(await backend.report(), 'POST', frontEnd.login).map(({ status }) => status), [401]);

      await logIn(page);
      await signedIn(page).waitFor();
    });

    browserCase(browser, `${frontEnd.name}: a session the backend ended leads back to the login, ${how}`, async (page) => {
      await backend.reset();
      await page.goto(site.start);
      await logIn(page);
      await press(page, 'List', 'listed');

      await backend.revoke();
      await page.getByRole('button', { name: 'List', exact: true }).click();
      await site.asksToLogIn(page).waitFor();

      await logIn(page);
      await press(page, 'List', 'listed');
    });
  }
}

// Tokens that end by the clock, as most do. Some front ends read a JWT's end themselves.
const named = Object.fromEntries(jsonFrontEnds.map((frontEnd) => [frontEnd.shape, frontEnd]));
for (const [frontEnd, tokens] of [[named.axios, 'jwt'], [named.axios, 'opaque'], [named.nuxt, 'jwt']]) {
  const backend = await startBackend(`${frontEnd.shape}-${tokens}-short-lived-backend`, { ...frontEnd, tokens, life: 2 });
  after(() => backend.stop());
  const gateway = await gatewayBefore(backend, frontEnd.shape);
  after(() => gateway.stop());

  for (const [how, { origin }] of [['directly', backend], ['through latchgate', gateway]]) {
    browserCase(browser, `${frontEnd.name}: ${tokens} access tokens that live two seconds end unnoticed, ${how}`, async (page) => {
      await page.goto(origin);
      await logIn(page);
      await press(page, 'List', 'listed');
      for (let round = 1; round <= 2; round += 1) {
        await sleep(2_500);
        await backend.forget();
        await press(page, 'List', 'listed');
        assert.equal(received(await backend.report(), 'POST', frontEnd.refresh).length, 1);
      }
    });
  }
}

/** The requests of this method and path in the backend's report. */
function received({ requests }, method, path) {
  return requests.filter((sent) => sent.method === method && sent.path === path);
}

function valuesOf(headers, wanted) {
  return headers.filter(([name]) => name.toLowerCase() === wanted).map(([, value]) => value);
}
