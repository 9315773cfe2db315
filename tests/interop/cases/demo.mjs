import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { screenshot } from '../browser.mjs';
import { startGateway } from '../gateway.mjs';
import { freePort } from '../processes.mjs';
import { browserCase } from './steps.mjs';

browserCase('the built-in demo shows a sign-in, a private page, and a refresh as it happens', async (profile) => {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  // The file as it is in the repository, on ports that are free.
  const config = readFileSync(join(import.meta.dirname, '../../../gateway.toml'), 'utf8')
    .replaceAll(/\b8080\b/g, port)
    .replaceAll(/\b9901\b/g, await freePort());
  const gateway = await startGateway('demo', origin, config);
  try {
    const page = await profile.newPage();
    await page.goto(origin);
    await screenshot(page, '5 demo before signing in');

    await page.getByRole('link', { name: /sign in/i }).first().click();
    await screenshot(page, '6 demo personas');
    const persona = page.getByRole('main').getByRole('link').first();
    const name = await persona.locator('strong').textContent();
    await persona.click();
    await page.waitForURL((url) => !/^\/(mock|auth)\//.test(url.pathname));
    await page.getByText(name).first().waitFor();
    await screenshot(page, '7 demo signed in');

    await page.goto(`${origin}/private`);
    await page.getByText(name).first().waitFor();
    await screenshot(page, '8 demo private page');

    await page.getByRole('button', { name: /expire/i }).click();
    await page.getByRole('button', { name: /call the api/i }).click();
    await page.getByText(/refresh/i).first().waitFor();
    await page.getByText(/\b401\b/).first().waitFor();
    await page.getByText(/\b200\b/).first().waitFor();
    await screenshot(page, '9 demo timeline of a refresh');
  } finally {
    await gateway.stop();
  }
});
