// backend.py as a process of its own, and what tests ask of it.

import { join } from 'node:path';
import { start } from '../interop/processes.mjs';

export const PASSWORD = 'correct horse';
export const EMAIL = 'grace@example.com';

/** Starts the backend in the shape `shape`, serving the front end in `directories`. Access tokens live `life` seconds. */
export async function startBackend(name, { shape, directories, tokens = 'jwt', life = 3600 }) {
  const files = directories.flatMap((directory) => ['--files', join(import.meta.dirname, directory)]);
  const backend = start(name, 'python3', [
    join(import.meta.dirname, 'backend.py'), '--shape', shape, '--tokens', tokens, '--life', String(life), ...files,
  ], { cwd: import.meta.dirname });
  const [, origin] = await backend.saw(/listening on (http:\/\/127\.0\.0\.1:\d+)/);
  const control = (method, what) => fetch(`${origin}/_control/${what}`, { method });
  return {
    origin,
    /** What it received since `forget`, and every token it issued since `reset`: `{ requests: [{ method, path, headers, body, status }], tokens }`. */
    report: async () => (await control('GET', 'report')).json(),
    forget: () => control('POST', 'forget'),
    /** As when it was started. */
    reset: () => control('POST', 'reset'),
    /** No access token is good for anything from now on; refresh tokens are. */
    expire: () => control('POST', 'expire'),
    /** No token of any kind is. */
    revoke: () => control('POST', 'revoke'),
    stop: () => backend.stop(),
  };
}
