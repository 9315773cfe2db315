// The pattern of axios' page on authentication: one refresh at a time, and a queue of those who wait for it.

import axios from '/axios.min.js';

export const api = axios.create();

api.interceptors.request.use((config) => {
  const token = localStorage.getItem('access_token');
  if (token) config.headers.set('Authorization', `Bearer ${token}`);
  return config;
});

let isRefreshing = false;
let failedQueue = [];

api.interceptors.response.use((response) => response, async (error) => {
  const originalRequest = error.config;
  if (error.response?.status !== 401 || originalRequest._retry) return Promise.reject(error);

  if (isRefreshing) {
    const token = await new Promise((resolve, reject) => failedQueue.push({ resolve, reject }));
    originalRequest.headers.set('Authorization', `Bearer ${token}`);
    return api(originalRequest);
  }

  originalRequest._retry = true;
  isRefreshing = true;
  try {
    const { data } = await axios.post('/auth/refresh', { refreshToken: localStorage.getItem('refresh_token') });
    remember(data);
    api.defaults.headers.common.Authorization = `Bearer ${data.access_token}`;
    processQueue(null, data.access_token);
    return api(originalRequest);
  } catch (refreshError) {
    processQueue(refreshError);
    forget();
    window.location.href = '/login';
    return Promise.reject(refreshError);
  } finally {
    isRefreshing = false;
  }
});

function processQueue(error, token = null) {
  for (const { resolve, reject } of failedQueue) {
    if (error) reject(error);
    else resolve(token);
  }
  failedQueue = [];
}

export async function signIn({ email, password }) {
  const { data } = await axios.post('/auth/login', { username: email, password });
  remember(data);
  localStorage.setItem('user', JSON.stringify(data.user));
  return data.user;
}

export async function signOut() {
  await api.post('/auth/logout').finally(forget);
}

export const signedInUser = () => JSON.parse(localStorage.getItem('user'));

// The backend rotates refresh tokens: both are kept, where axios' page keeps the access token only.
function remember({ access_token, refresh_token }) {
  localStorage.setItem('access_token', access_token);
  if (refresh_token) localStorage.setItem('refresh_token', refresh_token);
}

function forget() {
  for (const key of ['access_token', 'refresh_token', 'user']) localStorage.removeItem(key);
}
