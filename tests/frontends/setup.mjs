// What all cases share.

import { after } from 'node:test';
import { startBrowser } from '../interop/browser.mjs';

export const browser = await startBrowser();
after(() => browser.stop());
