import { items } from '../utils/items';

export default defineEventHandler(async (event) => {
  items.push({ id: items.length + 1, name: (await readBody(event)).name });
  setResponseStatus(event, 201);
});
