// One app: its instances, what they are, and what an operator can do with them.

import { get, path } from '../api.js';
import { actions } from '../dialogs.js';
import { STATES, ago, el, figure, fillIfChanged, link, name, number, route, state, visible } from '../dom.js';
import { every, follow, soon } from '../live.js';
import { pagedTable } from '../table.js';

/** Heartbeats are no events: the column is read again so often, milliseconds. */
const HEARTBEATS_EVERY = 5_000;

/** A search that takes longer is not repeated for the heartbeats alone, milliseconds. */
const SLOW = 1_000;

/** Pairs of metadata that a row shows. */
const METADATA_MAX = 2;

export function title([app]) {
  return ['Apps', app];
}

function metadata(line) {
  const pairs = Object.entries(line.metadata);
  const all = pairs.map(([key, value]) => `${visible(key)}=${visible(value)}`).join('\n');
  const more = pairs.length > METADATA_MAX ? ` +${number(pairs.length - METADATA_MAX)}` : null;
  return el('span', { class: 'tags', title: all }, pairs.slice(0, METADATA_MAX).map(([key, value]) => el('span', { class: 'tag' }, name(key), '=', name(value))), more);
}

function host(line) {
  return line.ip.includes(':') ? `[${line.ip}]` : line.ip;
}

export const INSTANCE_COLUMNS = [
  { head: 'Instance', kind: 'wide', cell: (line) => link(route('apps', line.app, line.id), name(line.id)) },
  { head: 'Address', cell: (line) => (line.ip ? name(`${host(line)}:${line.port}`) : el('span', { class: 'quiet' }, '–')) },
  { head: 'State', cell: (line) => state(line.state) },
  { head: 'Version', cell: (line) => name(line.version) },
  { head: 'Zone', cell: (line) => name(line.zone) },
  { head: 'Weight', kind: 'number', cell: (line) => number(line.weight) },
  { head: 'Metadata', kind: 'wide', cell: metadata },
];

/** What the search box means: a CEL expression where it looks like one, else a text. */
function asked(text) {
  const expression = /(==|!=|&&|\|\||<|>|\.(startsWith|endsWith|contains|matches)\(| in )/.test(text);
  return expression ? { filter: text } : { q: text };
}

export async function open({ parts: [app], query, root, signal }) {
  const summary = el('div', { class: 'summary' });
  const refused = el('p', { class: 'problem', role: 'alert', hidden: true });
  const search = el('input', {
    type: 'search', class: 'long', value: query.get('q') ?? '', autocomplete: 'off', spellcheck: 'false',
    placeholder: 'Text, or a filter: zone == "a" && weight > 1', 'aria-label': 'Search or filter instances',
  });
  const states = el('select', { 'aria-label': 'State' }, el('option', { value: '' }, 'any state'), STATES.map((each) => el('option', { value: each }, each)));
  const searching = el('span', { class: 'quiet', role: 'status' });
  let turn = 0;
  let took = 0;
  const readAll = () => Promise.all([table.refresh(), readApp()]);
  const refresh = soon(readAll, 700, signal);
  const table = pagedTable({
    caption: `Instances of ${app}`,
    columns: [
      ...INSTANCE_COLUMNS.slice(0, 3),
      { head: 'Last heartbeat', quiet: true, cell: (line) => ago(line.last_heartbeat) },
      ...INSTANCE_COLUMNS.slice(3),
      { head: 'Actions', kind: 'last', cell: (line) => actions(line, readAll) },
    ],
    key: (line) => line.id,
    none: 'No instance is here, or none matches.',
    load: async (after, limit) => {
      const begun = Date.now();
      try {
        return await find(after, limit);
      } catch (why) {
        if (why.code !== 'invalid-filter') throw why;
        refused.textContent = visible(why.message);
        refused.hidden = false;
        return { rows: [], more: false };
      } finally {
        took = Date.now() - begun;
      }
    },
  });
  /** One page. The node looks for a second at most before it answers what it has: what is rare takes
   *  several answers. */
  async function find(after, limit) {
    const mine = ++turn;
    const wanted = search.value.trim() ? asked(search.value.trim()) : {};
    const inState = states.value ? `state == "${states.value}"` : null;
    // Positions in what is said of a wrong filter are those of what was typed, if that is all.
    const filter = wanted.filter && inState ? `(${wanted.filter}) && ${inState}` : wanted.filter ?? inState;
    const to = path`v1/apps/${app}/instances`;
    const first = await get(to, { after, limit, q: wanted.q, filter, heartbeats: 'true' }, signal);
    refused.hidden = true;
    let rows = first.instances;
    let cursor = first.next_cursor;
    while (cursor && rows.length < limit && mine === turn) {
      searching.textContent = `Searching: ${number(rows.length)} found so far …`;
      const answer = await get(to, { cursor, limit: limit - rows.length, q: wanted.q, filter, heartbeats: 'true' }, signal);
      rows = rows.concat(answer.instances);
      cursor = answer.next_cursor;
    }
    if (mine === turn) searching.textContent = '';
    return { rows, more: cursor !== null, revision: first.revision };
  }
  const readApp = async () => {
    const answer = await get(path`v1/apps/${app}`, null, signal);
    fillIfChanged(summary, answer, () => about(answer));
    return answer;
  };
  const restart = soon(table.restart, 300, signal);
  // A search that is under way is given up.
  search.addEventListener('input', () => { turn += 1; restart(); });
  states.addEventListener('change', table.restart);
  const [from] = await Promise.all([table.refresh(), readApp()]);
  root.replaceChildren(summary, el('div', { class: 'tools' }, search, states, searching), refused, table.node);
  every(HEARTBEATS_EVERY, () => { if (took < SLOW) refresh(); }, signal);
  follow({ app, kind: ['instance', 'app'] }, from, {
    signal,
    // The counts change with any of them.
    onEvents: refresh,
    onReset: () => table.refresh(),
  });
}

function about(app) {
  const lasts = (duration) => duration ?? 'default';
  return el('dl', { class: 'figures' },
    STATES.map((each) => figure(state(each), number(app.counts[each]))),
    figure('Kind', app.kind),
    figure('TTL', lasts(app.ttl), app.ttl_min || app.ttl_max ? `${app.ttl_min ?? 'any'} to ${app.ttl_max ?? 'any'}` : null),
    figure('Removed when empty', app.remove_when_empty_after ? `after ${app.remove_when_empty_after}` : 'never'),
    figure('See', [
      link(`#/events?app=${encodeURIComponent(app.app)}`, 'Events'), ' ',
      link(route('ring', app.app), 'Ring'),
    ]));
}
