// The Nuxt Aegis application, built for production.

import { join } from 'node:path';
import { eventually, freePort, start } from '../interop/processes.mjs';

/** What its tokens are signed with; behind the gateway, the assertions it is given. */
export const TOKEN_SECRET = 'a secret of forty characters for testing';

/** Seconds that an access token lives. */
export const TOKEN_LIFE = 2;

export async function startAegis(name) {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const server = start(name, 'node', [join(import.meta.dirname, 'aegis/.output/server/index.mjs')], {
    cwd: import.meta.dirname,
    env: {
      HOST: '127.0.0.1',
      PORT: String(port),
      NUXT_NUXT_AEGIS_TOKEN_SECRET: TOKEN_SECRET,
      NUXT_NUXT_AEGIS_TOKEN_EXPIRES_IN: `${TOKEN_LIFE}s`,
    },
  });
  await server.whileRunning(eventually(() => fetch(origin), `${name} to answer`));
  return { origin, stop: () => server.stop() };
}
