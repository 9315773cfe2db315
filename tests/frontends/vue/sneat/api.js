// The pattern of the Sneat guide "How to handle refresh token": any 401 refreshes, with nothing that keeps several apart.

import axios from '/axios.min.js';

export const api = axios.create();

api.interceptors.request.use((config) => {
  const accessToken = localStorage.getItem('accessToken');
  if (accessToken) config.headers.Authorization = `Bearer ${accessToken}`;
  return config;
});

api.interceptors.response.use((response) => response, (error) => {
  const { config: originalRequest, response: { status } } = error;
  if (status !== 401) return Promise.reject(error);

  return axios.post('/auth/refresh-token', { refreshToken: localStorage.getItem('refreshToken') })
    .then(({ data: { accessToken, refreshToken } }) => {
      localStorage.setItem('accessToken', accessToken);
      localStorage.setItem('refreshToken', refreshToken);
      api.defaults.headers.common.Authorization = `Bearer ${accessToken}`;
      originalRequest.headers.Authorization = `Bearer ${accessToken}`;
      return api(originalRequest);
    })
    .catch((refreshError) => {
      forget();
      return Promise.reject(refreshError);
    });
});

export async function signIn(credentials) {
  const { data: { accessToken, refreshToken, user } } = await axios.post('/auth/login', credentials);
  localStorage.setItem('accessToken', accessToken);
  localStorage.setItem('refreshToken', refreshToken);
  localStorage.setItem('userData', JSON.stringify(user));
  return user;
}

export async function signOut() {
  await api.post('/auth/logout').finally(forget);
}

export const signedInUser = () => JSON.parse(localStorage.getItem('userData'));

function forget() {
  for (const key of ['accessToken', 'refreshToken', 'userData']) localStorage.removeItem(key);
}
