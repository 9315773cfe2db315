// Runs last: these cases look at what all the others left behind.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { logs } from '../gateway.mjs';
import { CLIENT_ID, CLIENT_SECRET } from '../provider.mjs';
import { gateway, provider } from '../setup.mjs';
import { cookieValues } from './steps.mjs';

test('SIGTERM ends the gateway with exit code 0', async () => {
  assert.deepEqual(await gateway.stop(10_000), { code: 0, signal: null });
});

test('no secret, token, code or cookie is in any log of the gateway, at the most talkative level', () => {
  const encodedSecret = encodeURIComponent(CLIENT_SECRET);
  const canaries = new Set([
    ...provider.secrets,
    ...cookieValues,
    encodedSecret,
    Buffer.from(`${CLIENT_ID}:${encodedSecret}`).toString('base64'),
  ]);
  assert.ok(provider.secrets.size > 50 && cookieValues.size > 10, 'the other cases must have run');

  const lines = logLines();
  assert.ok(lines.length > 10, 'there must be a log to look at');
  assert.deepEqual(lines.filter((line) => [...canaries].some((canary) => line.includes(canary))), []);
});

test('the gateway never panicked', () => {
  assert.deepEqual(logLines().filter((line) => line.includes('panicked')), []);
});

const logLines = () => [...logs.values()].flatMap((output) => output().split('\n'));
