// The front ends, as they are: nothing here, and nothing in them, knows whether a gateway is in front.

import { EMAIL, PASSWORD } from './backend.mjs';

const VUE = ['vue/page', 'vue/node_modules/vue/dist', 'vue/node_modules/axios/dist/esm'];

/**
 * Those with a JSON backend that has a login of its own.
 *
 * `shape`: the backend's endpoints and names, and the gateway's preset; `directories`: its files; `refresh`, `login`: the backend's endpoints;
 * `tokensIn(held)`: the tokens the front end has in the page; `refusal`: what it says of a wrong password.
 */
export const jsonFrontEnds = [
  {
    name: 'axios with the interceptors of its documentation',
    shape: 'axios',
    directories: ['vue/axios', ...VUE],
    login: '/auth/login',
    refresh: '/auth/refresh',
    tokensIn: ({ localStorage }) => [localStorage.access_token, localStorage.refresh_token],
    refusal: 'Wrong name or password.',
  },
  {
    name: 'Vue after the Sneat guide',
    shape: 'sneat',
    directories: ['vue/sneat', ...VUE],
    login: '/auth/login',
    refresh: '/auth/refresh-token',
    tokensIn: ({ localStorage }) => [localStorage.accessToken, localStorage.refreshToken],
    refusal: 'Wrong name or password.',
  },
  {
    name: 'Vue with the jwtService of Vuexy',
    shape: 'vuexy',
    directories: ['vue/vuexy', ...VUE],
    login: '/jwt/login',
    refresh: '/jwt/refresh-token',
    tokensIn: ({ localStorage }) => [localStorage.accessToken, localStorage.refreshToken],
    refusal: 'Wrong name or password.',
  },
  {
    name: 'Nuxt with @trandaison/nuxt-3-auth',
    shape: 'nuxt',
    directories: ['nuxt-auth/.output/public'],
    login: '/login',
    refresh: '/refresh_tokens',
    tokensIn: ({ cookies }) => [cookies['auth.access_token'], cookies['auth.refresh_token']],
    refusal: 'Invalid login credentials',
  },
];

/** Fills in the front end's own login form. */
export async function logIn(page, password = PASSWORD) {
  await page.getByLabel('Email').fill(EMAIL);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Login' }).click();
}
