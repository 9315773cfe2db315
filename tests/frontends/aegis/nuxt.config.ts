// @peterbud/nuxt-aegis with its mock provider.
import { fileURLToPath } from 'node:url';

const mockRoute = (file) => fileURLToPath(new URL(
  `./node_modules/@peterbud/nuxt-aegis/dist/runtime/server/routes/mock/${file}`, import.meta.url,
));

export default defineNuxtConfig({
  modules: ['@peterbud/nuxt-aegis'],
  ssr: false,
  telemetry: false,
  compatibilityDate: '2025-01-01',
  nuxtAegis: {
    token: { secret: '', expiresIn: '1h', issuer: 'nuxt-aegis' },
    tokenRefresh: {
      // The tests speak plain HTTP.
      cookie: { cookieName: 'nuxt-aegis-refresh', secure: false, httpOnly: true, sameSite: 'lax', path: '/', maxAge: 604800 },
      storage: { driver: 'memory' },
    },
    providers: {
      mock: {
        clientId: 'mock-client',
        clientSecret: 'mock-secret',
        enableInProduction: true,
        mockUsers: { grace: { sub: 'grace', email: 'grace@example.com', name: 'Grace Hopper' } },
      },
    },
  },
  // A production build leaves the mock provider's own endpoints out.
  serverHandlers: [
    { route: '/auth/mock/authorize', method: 'get', handler: mockRoute('authorize.get') },
    { route: '/auth/mock/token', method: 'post', handler: mockRoute('token.post') },
    { route: '/auth/mock/userinfo', method: 'get', handler: mockRoute('userinfo.get') },
  ],
  routeRules: { '/api/items': { nuxtAegis: { auth: true } } },
});
