import assert from 'node:assert/strict';
import { screenshot } from '../browser.mjs';
import { minimalConfig, startGateway } from '../gateway.mjs';
import { freePort } from '../processes.mjs';
import { gateway, provider } from '../setup.mjs';
import { browserCase, isAt, signedInAt } from './steps.mjs';

browserCase('a forged answer of the provider ends on a page that offers to start again', async (profile) => {
  const page = await profile.newPage();
  const answer = await page.goto(`${gateway.origin}/auth/corp?code=forged&state=forged`);
  assert.equal(answer.status(), 400);
  await screenshot(page, '10 refusal of a forged state');

  await page.getByRole('link', { name: 'Try again' }).click();
  isAt(page, provider.origin);
});

browserCase('a page that does not accept a new login ends on one that says so, not in a loop', async (profile) => {
  const page = await profile.newPage();
  const target = `${gateway.origin}/anything/loop`;
  for (const origin of [provider.origin, provider.origin, gateway.origin]) {
    await page.goto(target);
    isAt(page, origin);
  }
  await page.getByRole('heading', { name: 'Signing in does not help' }).waitFor();
  await page.getByRole('link', { name: 'Sign out' }).waitFor();
  await screenshot(page, '11 refusal of a login loop');

  await page.getByRole('link', { name: 'Try again' }).click();
  isAt(page, provider.origin);
});

browserCase('an address that leads nowhere is a page that says so', async (profile) => {
  const page = await profile.newPage();
  const answer = await page.goto(`${gateway.origin}/nowhere`);
  assert.equal(answer.status(), 404);
  assert.match(answer.headers()['content-type'], /^text\/html/);
  await screenshot(page, '12 refusal of an unknown address');
});

browserCase('a backend that is down is a page that names nobody', async (profile) => {
  const listen = `127.0.0.1:${await freePort()}`;
  const gone = await freePort();
  const down = await startGateway('gateway-without-backend', `http://${listen}`, minimalConfig(listen, `http://127.0.0.1:${gone}`));
  try {
    const page = await profile.newPage();
    const answer = await page.goto(down.origin);
    assert.equal(answer.status(), 502);
    assert.doesNotMatch(await page.content(), new RegExp(`${gone}|refused`));
    await screenshot(page, '13 refusal of a backend that is down');
  } finally {
    await down.stop();
  }
});

browserCase('with two providers there is a page to choose, and the choice keeps where to return to', async (profile) => {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const choosing = await startGateway('gateway-two-providers', origin, twoProviders(port));
  try {
    const page = await profile.newPage();
    await page.goto(`${origin}/auth/login?status=expired`);
    await page.getByText('Your session has expired').waitFor();

    await page.goto(`${origin}/private/?x=1`);
    await screenshot(page, '14 choice of two providers');
    await page.getByRole('link', { name: 'staff' }).waitFor();
    await page.getByRole('link', { name: 'guests' }).click();
    await page.getByRole('link', { name: 'Ada Example' }).click();
    await page.getByRole('heading', { name: 'Hello, Ada Example' }).waitFor();
    assert.equal(page.url(), `${origin}/private/?x=1`);
  } finally {
    await choosing.stop();
  }
});

browserCase('whoever may not use a page is told so, and not sent to sign in again', async (profile) => {
  await signedInAt(profile, '/anything/allowed');
  const page = await profile.newPage();
  const answer = await page.goto(`${gateway.origin}/admin`);
  assert.equal(answer.status(), 403);
  await screenshot(page, '15 refusal of somebody else');
});

const twoProviders = (port) => `
[server]
listen = "127.0.0.1:${port}"
external_url = "http://localhost:${port}"
admin_listen = "off"

[providers.guests]
kind = "mock"
users = [{ sub = "ada", name = "Ada Example" }]

[providers.staff]
kind = "oidc"
issuer = "${provider.origin}"
client_id = "app"
client_auth = "none"

[upstreams.app]
url = "demo:"

[[routes]]
path = "/private/*"

[[routes]]
path = "/*"
auth = "optional"
`;
