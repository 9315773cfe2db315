import { items } from '../utils/items';

export default defineEventHandler(() => ({ items }));
