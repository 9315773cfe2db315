// Runs last: these cases look at what all the others left behind.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gateway, provider } from '../setup.mjs';
import { CLIENT_ID, CLIENT_SECRET } from '../provider.mjs';
import { cookieValues } from './steps.mjs';

test('SIGTERM ends the gateway with exit code 0', async () => {
  assert.deepEqual(await gateway.stop(10_000), { code: 0, signal: null });
});

test('no secret, token, code or cookie is in the gateway\'s log, at the most talkative level', () => {
  const encodedSecret = encodeURIComponent(CLIENT_SECRET);
  const canaries = new Set([
    ...provider.secrets,
    ...cookieValues,
    encodedSecret,
    Buffer.from(`${CLIENT_ID}:${encodedSecret}`).toString('base64'),
  ]);
  assert.ok(provider.secrets.size > 50 && cookieValues.size > 10, 'the other cases must have run');

  const log = gateway.log();
  assert.ok(log.length > 1_000, 'there must be a log to look at');
  const leaks = log.split('\n').filter((line) => [...canaries].some((canary) => line.includes(canary)));
  assert.deepEqual(leaks, []);
});

test('no panic in the gateway\'s log', () => {
  assert.doesNotMatch(gateway.log(), /panicked/);
});
