// A backend that nobody changed: a JSON login of its own, in the shape of a preset (docs/providers.md), and an API behind it.

import { randomUUID } from 'node:crypto';

const SHAPES = {
  nuxt: { login: '/login', refresh: '/refresh_tokens', sent: 'token', token: 'token', refreshToken: 'refresh_token' },
  sneat: { login: '/auth/login', refresh: '/auth/refresh-token', sent: 'refreshToken', token: 'accessToken', refreshToken: 'refreshToken' },
  vuexy: { login: '/jwt/login', refresh: '/jwt/refresh-token', sent: 'refreshToken', token: 'accessToken', refreshToken: 'refreshToken' },
  axios: { login: '/auth/login', refresh: '/auth/refresh', sent: 'refreshToken', token: 'access_token', refreshToken: 'refresh_token' },
};

/** Knows Ada, whose password is "right". Refresh tokens work once. */
export function jsonBackend(preset) {
  const shape = SHAPES[preset];
  const issued = [];
  let live;

  const issue = () => {
    live = { access: randomUUID(), refresh: randomUUID() };
    issued.push(live.access, live.refresh);
    return { [shape.token]: live.access, [shape.refreshToken]: live.refresh, userData: { id: 'ada', name: 'Ada Example' } };
  };
  const replies = {
    [`POST ${shape.login}`]: ({ body }) => body.email === 'ada' && body.password === 'right' && issue(),
    [`POST ${shape.refresh}`]: ({ body }) => body[shape.sent] === live?.refresh && issue(),
    'GET /me': ({ bearer }) => bearer === live?.access && { id: 'ada', name: 'Ada Example' },
    'GET /api/who': ({ bearer }) => bearer === live?.access && { sub: 'ada' },
  };

  return {
    shape,
    /** Every token it has given. */
    issued,
    /** From now on the API says 401 to the access token. */
    expire() {
      live.access = undefined;
    },
    /** Answers what is its own; false for everything else. */
    async answer(request, response) {
      const reply = replies[`${request.method} ${request.url}`];
      if (!reply) return false;
      let text = '';
      for await (const chunk of request) text += chunk;
      const bearer = request.headers.authorization?.replace(/^Bearer /, '');
      const body = reply({ body: text && JSON.parse(text), bearer });
      response.writeHead(body ? 200 : 401, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body || { message: 'no' }));
      return true;
    },
  };
}
