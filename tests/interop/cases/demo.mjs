import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { screenshot } from '../browser.mjs';
import { startGateway } from '../gateway.mjs';
import { freePort } from '../processes.mjs';
import { browserCase } from './steps.mjs';

browserCase('the built-in demo signs in, and shows a 401 become a 200 the browser knows nothing of', async (profile) => {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  // The repository's own file as it is, on ports that are free.
  const config = readFileSync(join(import.meta.dirname, '../../../gateway.toml'), 'utf8')
    .replaceAll(/\b8080\b/g, port)
    .replaceAll(/\b9901\b/g, await freePort());
  const gateway = await startGateway('demo', origin, config);
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

    // A token refused within `refresh.cooldown` (5 s) of its issue is not refreshed.
    await sleep(5_100);
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
    assert.deepEqual(await statuses('What the backend saw'), ['200', '401', '200', '200']);
  } finally {
    await gateway.stop();
  }
});
