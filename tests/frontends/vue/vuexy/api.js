// The pattern of Vuexy's jwtService: a flag while a refresh runs, and subscribers who are told the new token.

import axios from '/axios.min.js';

export const api = axios.create();

let isAlreadyFetchingAccessToken = false;
let subscribers = [];

api.interceptors.request.use((config) => {
  const accessToken = localStorage.getItem('accessToken');
  if (accessToken) config.headers.Authorization = `Bearer ${accessToken}`;
  return config;
});

api.interceptors.response.use((response) => response, (error) => {
  const { config: originalRequest, response } = error;
  if (response?.status !== 401 || originalRequest._retry) return Promise.reject(error);
  originalRequest._retry = true;

  const retried = new Promise((resolve, reject) => {
    subscribers.push((accessToken) => {
      if (!accessToken) return reject(error);
      originalRequest.headers.Authorization = `Bearer ${accessToken}`;
      resolve(api(originalRequest));
    });
  });
  if (!isAlreadyFetchingAccessToken) {
    isAlreadyFetchingAccessToken = true;
    axios.post('/jwt/refresh-token', { refreshToken: localStorage.getItem('refreshToken') })
      .then(({ data }) => {
        localStorage.setItem('accessToken', data.accessToken);
        localStorage.setItem('refreshToken', data.refreshToken);
        onAccessTokenFetched(data.accessToken);
      })
      .catch(() => {
        forget();
        onAccessTokenFetched(null);
      });
  }
  return retried;
});

function onAccessTokenFetched(accessToken) {
  isAlreadyFetchingAccessToken = false;
  const waiting = subscribers;
  subscribers = [];
  for (const callback of waiting) callback(accessToken);
}

export async function signIn(credentials) {
  const { data: { accessToken, refreshToken, user } } = await axios.post('/jwt/login', credentials);
  localStorage.setItem('accessToken', accessToken);
  localStorage.setItem('refreshToken', refreshToken);
  localStorage.setItem('userData', JSON.stringify(user));
  return user;
}

export async function signOut() {
  await api.post('/jwt/logout').finally(forget);
}

export const signedInUser = () => JSON.parse(localStorage.getItem('userData'));

function forget() {
  for (const key of ['accessToken', 'refreshToken', 'userData']) localStorage.removeItem(key);
}
