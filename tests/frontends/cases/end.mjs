// Runs last: these cases look at what all the others left behind.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { logs } from '../../interop/gateway.mjs';
import { TOKEN_SECRET } from '../aegis.mjs';
import { secrets } from '../browser.mjs';

test('no token, code or cookie of any front end is in any log of a gateway, at the most talkative level', () => {
  assert.ok(secrets.size > 20, 'the other cases must have run');
  const lines = logLines();
  assert.ok(lines.length > 10, 'there must be a log to look at');
  assert.deepEqual(lines.filter((line) => [TOKEN_SECRET, ...secrets].some((secret) => line.includes(secret))), []);
});

test('no gateway panicked', () => {
  assert.deepEqual(logLines().filter((line) => line.includes('panicked')), []);
});

const logLines = () => [...logs.values()].flatMap((output) => output().split('\n'));
