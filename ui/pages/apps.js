// All apps, or what a search over all instances finds.

import { get } from '../api.js';
import { STATES, button, card, el, link, name, number, route } from '../dom.js';
import { follow, sleep, soon } from '../live.js';
import { pagedTable, rowTable } from '../table.js';
import { INSTANCE_COLUMNS } from './app.js';

const FOUND_MAX = 200;

export function title() {
  return ['Apps'];
}

export async function open(context) {
  const text = context.query.get('find');
  await (text ? find(context, text) : list(context));
}

const COLUMNS = [
  { head: 'App', kind: 'wide', cell: (line) => link(route('apps', line.app), name(line.app)) },
  { head: 'Instances', kind: 'number', cell: (line) => number(STATES.reduce((sum, each) => sum + line.counts[each], 0)) },
  ...STATES.map((each) => ({
    head: each[0].toUpperCase() + each.slice(1),
    kind: 'number',
    cell: (line) => (line.counts[each] > 0 ? el('span', { class: `count count-${each}` }, number(line.counts[each])) : el('span', { class: 'quiet' }, '0')),
  })),
  { head: 'Kind', kind: 'number', cell: (line) => line.kind },
  { head: 'Changed at', kind: 'number', cell: (line) => number(line.revision) },
];

async function list({ root, signal, query }) {
  const search = el('input', { type: 'search', value: query.get('q') ?? '', placeholder: 'Part of the name', 'aria-label': 'Search apps by name', autocomplete: 'off', spellcheck: 'false' });
  const filter = el('select', { 'aria-label': 'Apps with instances in this state' },
    el('option', { value: '' }, 'in any state'), STATES.map((each) => el('option', { value: each }, `with ${each}`)));
  filter.value = STATES.includes(query.get('state')) ? query.get('state') : '';
  const table = pagedTable({
    caption: 'Apps',
    columns: COLUMNS,
    key: (line) => line.app,
    none: search.value || filter.value ? 'No app matches.' : ['No app yet: the first registration makes one. Try ', el('code', null, 'roster demo'), '.'],
    load: async (after, limit) => {
      const answer = await get('v1/apps', { after, limit, q: search.value.trim(), state: filter.value }, signal);
      return { rows: answer.apps, more: answer.next_cursor !== null, revision: answer.revision };
    },
  });
  search.addEventListener('input', soon(table.restart, 250, signal));
  filter.addEventListener('change', table.restart);
  const from = await table.refresh();
  root.replaceChildren(el('div', { class: 'tools' }, search, filter), table.node);
  const refresh = soon(table.refresh, 1_000, signal);
  follow({ kind: ['app', 'instance'] }, from, {
    signal,
    onEvents: (events) => { if (events.some((event) => table.touches(event.app))) refresh(); },
    onReset: table.refresh,
  });
}

/** Instances of all apps. The search looks at each instance, so it is not repeated by itself. */
async function find({ root, signal }, text) {
  const table = rowTable({
    caption: 'Instances found',
    columns: [{ head: 'App', cell: (line) => link(route('apps', line.app), name(line.app)) }, ...INSTANCE_COLUMNS],
    key: (line) => `${line.app}\n${line.id}`,
    none: 'No instance matches. The search looks at names, addresses, versions, zones and metadata.',
  });
  const where = el('p', { class: 'quiet', role: 'status' });
  const more = button('Find more', () => turn());
  let found = [];
  let cursor;

  async function turn() {
    more.disabled = true;
    where.textContent = 'Searching …';
    // A page may be short and not the last one: what is rare takes several.
    const most = found.length + FOUND_MAX;
    do {
      const answer = await get('v1/instances', { q: text, limit: most - found.length, cursor }, signal);
      found = found.concat(answer.instances);
      cursor = answer.next_cursor;
      table.show(found);
      where.textContent = `${number(found.length)} found so far …`;
      await sleep(0, signal);
    } while (cursor && found.length < most && !signal.aborted);
    where.textContent = cursor ? `The first ${number(found.length)}; there may be more.` : `${number(found.length)} found.`;
    more.disabled = !cursor;
    more.hidden = !cursor;
  }

  root.replaceChildren(card(['Instances with “', name(text), '”'], link(route('apps'), 'All apps'), where, table.node, more));
  await turn();
}
