// A real browser: Debian's Chromium driven by playwright-core.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { ACCOUNTS } from './provider.mjs';
import { workDirectory } from './processes.mjs';

/** Starts Chromium once; every case takes profiles of its own from it. */
export async function startBrowser() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
      // Nothing leaves this machine, whatever a page asks for.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
    ],
  });
  return {
    /** A fresh profile: no cookies, no cache. */
    async profile(options) {
      const context = await browser.newContext(options);
      context.setDefaultTimeout(10_000);
      return context;
    },
    stop: () => browser.close(),
  };
}

/** Fills in the provider's forms on `page`, which is at the login form, and waits until it is back at `origin`. */
export async function signIn(page, origin, login = 'grace') {
  await page.getByLabel('Name').fill(login);
  await page.getByLabel('Password').fill(ACCOUNTS[login].password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  const allow = page.getByRole('button', { name: 'Allow' });
  const back = page.waitForURL((url) => url.origin === origin);
  await Promise.race([allow.click().catch(() => {}), back]);
  await back;
}

/** The JSON that the page shows. */
export async function shownJson(page) {
  return JSON.parse(await page.locator('pre').first().textContent());
}

/** Keeps a picture of the page under `.work/screenshots`. */
export async function screenshot(page, name) {
  const directory = join(workDirectory, 'screenshots');
  mkdirSync(directory, { recursive: true });
  await page.screenshot({ path: join(directory, `${name}.png`), fullPage: true });
}
