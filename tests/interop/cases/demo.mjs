import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { screenshot } from '../browser.mjs';
import { startGateway } from '../gateway.mjs';
import { freePort } from '../processes.mjs';
import { browserCase } from './steps.mjs';

browserCase('the built-in demo signs in, and shows a 401 become a 200 the browser knows nothing of', async (profile) => {
  const { gateway, origin } = await startDemo('demo');
  try {
    const page = await profile.newPage();
    await page.goto(origin);
    await screenshot(page, '5 demo before signing in');

    await page.getByRole('link', { name: 'Private' }).click();
    await screenshot(page, '6 demo personas');
    await page.getByRole('link', { name: 'Ada Example' }).click();
    await page.getByRole('heading', { name: 'Hello, Ada Example' }).waitFor();
    assert.match(page.url(), /\/private\/$/);
    await screenshot(page, '7 demo private page');

    const press = async (button, outcome) => {
      await page.getByRole('button', { name: button }).click();
      await page.getByRole('status').filter({ hasText: outcome }).waitFor();
    };
    await press('Let the access token expire', /refuses token/);
    await press('Call the API', 'The API says: Hello, Ada Example.');
    await press('Send a body', 'byte for byte what was sent');
    await screenshot(page, '8 demo timeline of a refresh');

    const statuses = (list) => page.getByRole('list', { name: list }).locator('.status').allTextContents();
    assert.deepEqual(await statuses('What your browser saw'), ['200', '200', '200']);
    // The first is the page itself.
    assert.deepEqual(await statuses('What the backend saw'), ['200', '200', '401', '200', '200']);

    await page.getByRole('link', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Hello, whoever you are' }).waitFor();
    await page.goto(`${origin}/private/`);
    await page.getByRole('heading', { name: 'Who would you like to be?' }).waitFor();
  } finally {
    await gateway.stop();
  }
});

browserCase('the built-in demo works without scripts, except for its live part', async (profile) => {
  const { gateway, origin } = await startDemo('demo-without-scripts');
  try {
    const page = await profile.newPage();
    await page.goto(origin);
    await page.getByRole('link', { name: 'Sign in' }).first().click();
    await page.getByRole('link', { name: 'Ada Example' }).click();
    await page.getByRole('heading', { name: 'Hello, Ada Example' }).waitFor();
    await page.getByRole('link', { name: 'Private' }).click();
    await page.locator('noscript .notice').waitFor();
    assert.deepEqual(await page.getByRole('button').evaluateAll((buttons) => buttons.map((button) => button.disabled)), [true, true, true, true]);
    await screenshot(page, '9 demo without scripts');
    await page.getByRole('link', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Hello, whoever you are' }).waitFor();
  } finally {
    await gateway.stop();
  }
}, { javaScriptEnabled: false });

/** The repository's own file as it is, on ports that are free. */
async function startDemo(name) {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const config = readFileSync(join(import.meta.dirname, '../../../gateway.toml'), 'utf8')
    .replaceAll(/\b8080\b/g, port)
    .replaceAll(/\b9901\b/g, await freePort());
  return { origin, gateway: await startGateway(name, origin, config) };
}
