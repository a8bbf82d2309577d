// Tables. A paged one holds one page of a list and nothing else, however long the list is: it asks for
// what comes after the last line of the page before, of the newest state, so it can be read again at
// any time without a cursor that the node would have to keep.

import { button, el, empty, fill, number, plural } from './dom.js';

const SIZES = [50, 100, 250];
const SIZE_DEFAULT = 100;

/** A table whose rows and cells are kept as long as what they show is the same: focus stays where it
 *  was, and what changed is seen. `columns`: `{ head, cell(row), kind, quiet }`, `quiet` ones change all
 *  the time; `key(row)` tells rows apart. */
export function rowTable({ caption, columns, key, none }) {
  const body = el('tbody');
  const heads = columns.map(({ head, kind }) => el('th', { scope: 'col', class: kind }, head));
  const table = el('table', null, [
    el('caption', { class: 'unheard' }, caption),
    el('thead', null, el('tr', null, heads)),
    body,
  ]);
  const nothing = empty(none);
  const node = el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, table, nothing);
  let shown = new Map();

  function show(rows) {
    const again = shown.size > 0;
    const focused = focusIn(body);
    const next = new Map();
    for (const row of rows) {
      const id = key(row);
      next.set(id, shown.has(id) ? renew(shown.get(id), row) : line(row, again));
    }
    shown = next;
    const lines = [...next.values()];
    // Nothing is moved that need not be: what is moved loses the focus and a click half done.
    if (lines.length !== body.children.length || lines.some((each, at) => body.children[at] !== each)) {
      body.replaceChildren(...lines);
    }
    table.hidden = rows.length === 0;
    nothing.hidden = rows.length > 0;
    if (focused && !body.contains(document.activeElement)) focused(shown);
  }

  function cells(row) {
    return columns.map(({ cell, kind }) => el('td', { class: kind }, cell(row)));
  }

  function line(row, fresh) {
    return el('tr', { class: fresh ? 'fresh' : null }, cells(row));
  }

  function renew(known, row) {
    known.classList.remove('fresh');
    cells(row).forEach((cell, at) => {
      const old = known.children[at];
      const was = old.classList.contains('fresh');
      old.classList.remove('fresh');
      if (!old.className) old.removeAttribute('class');
      if (old.isEqualNode(cell)) return;
      if (!columns[at].quiet || was) cell.classList.add('fresh');
      old.replaceWith(cell);
    });
    return known;
  }

  /** Where the focus is, to put it back there in the new row. */
  function focusIn(within) {
    const line = document.activeElement?.closest?.('tr');
    if (!line || !within.contains(line)) return null;
    const id = [...shown].find(([, known]) => known === line)?.[0];
    const place = [...line.querySelectorAll('a, button')].indexOf(document.activeElement);
    return (now) => now.get(id)?.querySelectorAll('a, button')[place]?.focus();
  }

  return { node, show, has: (id) => shown.has(id), keys: () => [...shown.keys()] };
}

/** `load(after, limit)` answers `{ rows, more, revision }`. */
export function pagedTable({ caption, columns, key, none, load, size = SIZE_DEFAULT }) {
  const table = rowTable({ caption, columns, key, none });
  const where = el('span', { class: 'quiet', role: 'status' });
  const first = button('First', () => go([]));
  const back = button('Previous', () => go(pages.slice(0, -1)));
  const on = button('Next', () => go([...pages, last]));
  const sizes = el('select', { 'aria-label': 'Rows per page', on: { change: () => { limit = Number(sizes.value); go([]); } } },
    [...new Set([...SIZES, size])].sort((a, b) => a - b).map((each) => el('option', { value: each, selected: each === size }, `${each} rows`)));
  sizes.value = String(size);
  const node = el('div', { class: 'paged' }, table.node,
    el('nav', { class: 'pager', 'aria-label': `Pages of ${caption}` }, first, back, on, sizes, where));

  /** The last lines of the pages before. */
  let pages = [];
  let limit = size;
  let last = null;
  let more = false;
  let turn = 0;

  async function refresh() {
    const mine = ++turn;
    const { rows, more: further, revision } = await load(pages.at(-1), limit);
    // Somebody turned the page meanwhile.
    if (mine !== turn) return revision;
    if (rows.length === 0 && pages.length > 0) {
      pages = pages.slice(0, -1);
      return refresh();
    }
    table.show(rows);
    last = rows.length > 0 ? key(rows.at(-1)) : null;
    more = further;
    first.disabled = back.disabled = pages.length === 0;
    on.disabled = !more;
    const end = more ? '' : ', the last';
    fill(where, rows.length === 0 ? '' : `Page ${number(pages.length + 1)}${end}: ${plural(rows.length, 'row')}`);
    return revision;
  }

  async function go(to) {
    pages = to;
    try {
      await refresh();
      table.node.scrollTop = 0;
    } catch (why) {
      fill(where, why.message);
    }
  }

  /** Whether a change of the line with this key can be seen on this page. The order here and the
   *  nodes' differ for rare characters only. */
  function touches(id) {
    const after = pages.at(-1);
    return table.has(id) || !more || ((after === undefined || id > after) && (last === null || id <= last));
  }

  return { node, refresh, touches, restart: () => go([]) };
}
