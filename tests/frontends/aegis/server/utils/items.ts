export const items = [{ id: 1, name: 'anchor' }, { id: 2, name: 'lantern' }];
