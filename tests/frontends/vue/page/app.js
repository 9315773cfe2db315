// The page. What it knows of tokens is in api.js, of which there is one per pattern.

import { createApp, reactive } from '/vue.esm-browser.prod.js';
import { api, signIn, signOut, signedInUser } from '/api.js';

const state = reactive({ user: signedInUser(), items: [], status: '', email: '', password: '' });

// A request refused for good rejects; api.js has forgotten its tokens when the session is over.
const said = (work) => async () => {
  state.status = '';
  try {
    state.status = await work();
  } catch (error) {
    state.status = error.response?.data?.message ?? 'failed';
    state.user = signedInUser();
  }
};

createApp({
  setup: () => ({
    state,
    enter: said(async () => {
      state.user = await signIn({ email: state.email, password: state.password });
      return '';
    }),
    list: said(async () => {
      state.items = (await api.get('/api/items')).data.items;
      return 'listed';
    }),
    listFive: said(async () => {
      const answers = await Promise.all(Array.from({ length: 5 }, () => api.get('/api/items')));
      return `${answers.filter(({ data }) => data.items.length).length} of 5`;
    }),
    add: said(async () => {
      await api.post('/api/items', { name: 'umbrella' });
      return 'added';
    }),
    leave: said(async () => {
      await signOut();
      state.user = signedInUser();
      return '';
    }),
  }),
  template: `
    <main v-if="state.user">
      <p>Signed in as {{ state.user.name }}</p>
      <button @click="list">List</button>
      <button @click="listFive">Five at once</button>
      <button @click="add">Add</button>
      <button @click="leave">Sign out</button>
      <ul><li v-for="item in state.items" :key="item.id">{{ item.name }}</li></ul>
    </main>
    <form v-else @submit.prevent="enter">
      <label>Email <input v-model="state.email" autocomplete="username"></label>
      <label>Password <input v-model="state.password" type="password" autocomplete="current-password"></label>
      <button>Login</button>
    </form>
    <p role="status">{{ state.status }}</p>
  `,
}).mount('#app');
