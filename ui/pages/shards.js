// Shard sets: a cell per shard in the colour of its holder, what moves, and how even it is.

import { get, path, workOut } from '../api.js';
import { colourVars, palette } from '../colour.js';
import { takeAway } from '../dialogs.js';
import { button, card, el, empty, figure, fill, fillIfChanged, link, name, number, plural, route, state, visible } from '../dom.js';
import { every, follow, soon } from '../live.js';
import { rowTable } from '../table.js';

/** Cells on one page. */
const CELLS = 1_500;

/** Workers that get a colour and a line; sets of more are shown by their first. */
const WORKERS_MAX = 500;

export function title([set]) {
  return set === undefined ? ['Shards'] : ['Shards', set];
}

export async function open(context) {
  await (context.parts.length === 0 ? list(context) : one(context));
}

function covers(set) {
  return set.apps.length === 1 && set.apps[0] === '*' ? 'all others' : set.apps.flatMap((app, at) => [at > 0 ? ', ' : '', name(app)]);
}

const COLUMNS = [
  { head: 'Shard set', kind: 'wide', cell: (set) => link(route('shards', set.set), name(set.set)) },
  { head: 'Workers of', cell: (set) => link(route('apps', set.workers), name(set.workers)) },
  { head: 'Shards of', cell: covers },
  { head: 'Shards', kind: 'number', cell: (set) => number(set.counts.shards) },
  { head: 'Held', kind: 'number', cell: (set) => number(set.counts.assigned) },
  { head: 'Moving', kind: 'number', cell: (set) => number(set.counts.pending) },
  { head: 'Orphaned', kind: 'number', cell: (set) => (set.counts.orphaned > 0 ? el('b', { class: 'count-suspect' }, number(set.counts.orphaned)) : '0') },
  { head: 'Workers', kind: 'number', cell: (set) => number(set.counts.available_workers) },
  { head: 'Imbalance', kind: 'number', cell: (set) => number(set.imbalance) },
  { head: 'Scaling', cell: (set) => (set.scaling ? link(route('scaling', set.set), 'on') : el('span', { class: 'quiet' }, 'off')) },
];

async function list({ root, signal }) {
  const table = rowTable({
    caption: 'Shard sets', columns: COLUMNS, key: (set) => set.set,
    none: ['No shard set: ', el('code', null, 'roster shards create SET --workers APP'), ' makes one.'],
  });
  const read = async () => table.show((await get('v1/shard-sets', null, signal)).shard_sets);
  await read();
  root.replaceChildren(table.node);
  every(2_000, soon(read, 1_000, signal), signal);
}

async function one({ parts: [set], query, root, signal }) {
  const facts = el('div');
  const grid = el('div', { class: 'cells', role: 'listbox', tabindex: '0', 'aria-label': 'Shards by holder' });
  const told = el('div', { class: 'told', role: 'status' });
  const legend = el('div');
  const where = el('span', { class: 'quiet' });
  const moves = el('div', { role: 'status' });
  const app = el('input', { type: 'search', placeholder: 'App, whole name', 'aria-label': 'Shards of this app', autocomplete: 'off', spellcheck: 'false' });
  const worker = el('select', { 'aria-label': 'Held by' }, el('option', { value: '' }, 'held by anybody'));
  worker.dataset.wanted = query.get('worker') ?? '';
  const first = button('First', () => go([]));
  const back = button('Previous', () => go(pages.slice(0, -1)));
  const on = button('Next', () => go([...pages, last]));
  let colours = palette([]);
  let pages = [];
  let last = null;
  let shown = [];
  let picked = null;
  let workersApp = '';

  const table = rowTable({
    caption: `Workers of ${set}`,
    columns: [
      { head: 'Worker', kind: 'wide', cell: (each) => [swatch(colours.get(each.id)), ' ', link(route('apps', workersApp, each.id), name(each.id))] },
      { head: 'State', cell: (each) => state(each.state) },
      { head: 'Held', kind: 'number', cell: (each) => number(each.held) },
      { head: el('span', { class: 'unheard' }, 'Held, as a bar'), kind: 'meter', cell: (each) => el('meter', { min: 0, max: Math.max(1, each.most), value: each.held, 'aria-label': `${number(each.held)} held` }) },
      { head: 'To let go', kind: 'number', cell: (each) => number(each.releasing) },
      { head: 'Coming', kind: 'number', cell: (each) => number(each.incoming) },
      { head: 'Planned', kind: 'number', cell: (each) => number(each.load) },
      { head: 'Zone', cell: (each) => name(each.zone) },
      { head: 'What if', kind: 'last', cell: (each) => button('Remove?', () => plan(each.id), { 'aria-label': `What would move without ${visible(each.id)}` }) },
    ],
    key: (each) => each.id,
    none: 'No worker is registered.',
  });

  const readSet = async () => {
    const answer = await get(path`v1/shard-sets/${set}`, null, signal);
    workersApp = answer.workers;
    const { workers } = await get(path`v1/shard-sets/${set}/workers`, { limit: WORKERS_MAX }, signal);
    colours = palette(workers.map((each) => each.id));
    const most = Math.max(0, ...workers.map((each) => each.held));
    table.show(workers.map((each) => ({ ...each, most })));
    fillIfChanged(facts, answer, () => about(answer));
    fillIfChanged(worker, workers.map((each) => each.id), () => [el('option', { value: '' }, 'held by anybody'), workers.map((each) => el('option', { value: each.id }, visible(each.id)))]);
    worker.value = workers.some((each) => each.id === worker.dataset.wanted) ? worker.dataset.wanted : '';
    return answer;
  };
  const readCells = async () => {
    const asked = { app: app.value.trim(), worker: worker.value, after: pages.at(-1), limit: CELLS, gone: 'true', standbys: 'true' };
    const answer = await get(path`v1/shard-sets/${set}/shards`, asked, signal);
    shown = answer.shards;
    last = shown.at(-1)?.shard ?? null;
    first.disabled = back.disabled = pages.length === 0;
    on.disabled = answer.next_cursor === null;
    fill(where, `Page ${number(pages.length + 1)}: ${plural(shown.length, 'shard')}`);
    fillIfChanged(grid, [shown.map((each) => [each.shard, each.holder, each.next, each.gone]), [...colours.keys()]], () => (shown.length > 0 ? shown.map(cell) : empty('No shard is here.')));
    if (picked) pick(shown.findIndex((each) => each.shard === picked), false);
    return answer.revision;
  };
  const read = async () => {
    await readSet();
    return readCells();
  };

  function cell(shard, at) {
    const colour = shard.holder ? colours.get(shard.holder) : null;
    const moving = shard.next !== null || shard.gone;
    const what = shard.holder === null ? 'orphaned' : moving ? 'moving' : 'held';
    return el('span', {
      class: `cell cell-${what}${colour ? '' : ' cell-none'}`, id: `cell-${at}`, role: 'option', 'aria-selected': 'false', 'data-at': at,
      vars: colour ? colourVars(colour) : {},
      title: `${visible(shard.shard)}: ${shard.holder === null ? 'held by nobody' : `held by ${visible(shard.holder)}`}${shard.next ? `, going to ${visible(shard.next)}` : ''}${shard.gone ? ', gone' : ''}`,
    }, shard.holder === null ? '!' : colour?.label ?? '?');
  }

  function pick(at, scroll = true) {
    grid.querySelector('[aria-selected=true]')?.setAttribute('aria-selected', 'false');
    const node = grid.children[at];
    const shard = shown[at];
    picked = shard?.shard ?? null;
    if (!shard || !node) {
      grid.removeAttribute('aria-activedescendant');
      fill(told, 'Pick a shard with the mouse or the arrow keys.');
      return;
    }
    node.setAttribute('aria-selected', 'true');
    grid.setAttribute('aria-activedescendant', node.id);
    if (scroll) node.scrollIntoView({ block: 'nearest' });
    fillIfChanged(told, shard, () => aboutShard(shard));
  }

  function aboutShard(shard) {
    const instance = shard.instance ? link(route('apps', shard.app, shard.instance), name(shard.shard)) : name(shard.shard);
    return [
      el('b', null, instance), ': ',
      shard.holder ? ['held by ', link(route('apps', workersApp, shard.holder), name(shard.holder)), ` under grant ${number(shard.grant)}`] : 'held by nobody',
      shard.next ? [', going to ', name(shard.next), ' when that one lets go'] : '',
      shard.gone ? ', gone with its instance, and not let go yet' : '',
      shard.standbys?.length > 0 ? ['; standbys ', shard.standbys.flatMap((each, at) => [at > 0 ? ', ' : '', name(each)])] : '',
      '. ',
      shard.holder && (shard.next || shard.gone) ? button('Take away', async () => { if (await takeAway(set, shard)) refresh(); }, { class: 'danger' }) : null,
    ];
  }

  async function plan(id) {
    fill(moves, 'Working it out …');
    try {
      const answer = await workOut(path`v1/shard-sets/${set}/plan`, { leave: [id] }, signal);
      const gains = answer.loads.filter((each) => each.after > each.before).sort((a, b) => b.after - b.before - (a.after - a.before));
      fill(moves,
        el('h3', null, 'Without ', name(id)),
        el('p', null, `${plural(answer.moves.length + answer.moves_left_off, 'shard')} would move; workers that stay give up ${number(answer.voluntary)} of theirs, the fewest possible is ${number(answer.fewest)}.`),
        el('ul', { class: 'gains' }, gains.slice(0, 12).map((each) => el('li', null, swatch(colours.get(each.worker)), ' ', name(each.worker), ` ${number(each.before)} to ${number(each.after)}`))));
    } catch (why) {
      if (!signal.aborted) fill(moves, visible(why.message));
    }
  }

  async function go(to) {
    pages = to;
    picked = null;
    try {
      await readCells();
      fill(legend);
    } catch (why) {
      if (!signal.aborted) fill(legend, el('p', { class: 'problem' }, visible(why.message)));
    }
  }

  grid.addEventListener('click', (event) => {
    const at = event.target.closest('.cell')?.dataset.at;
    if (at !== undefined) pick(Number(at));
  });
  grid.addEventListener('keydown', (event) => {
    const at = shown.findIndex((each) => each.shard === picked);
    const wide = rowLength(grid);
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide }[event.key];
    const to = event.key === 'Home' ? 0 : event.key === 'End' ? shown.length - 1 : by === undefined ? null : at + by;
    if (to === null || shown.length === 0) return;
    event.preventDefault();
    pick(Math.min(shown.length - 1, Math.max(0, to)));
  });
  app.addEventListener('input', soon(() => go([]), 300, signal));
  worker.addEventListener('change', () => { worker.dataset.wanted = worker.value; go([]); });
  const refresh = soon(read, 1_000, signal);
  const from = await read();
  pick(-1);
  root.replaceChildren(
    card('Set', link(route('scaling', set), 'Scaling'), facts),
    card('Shards by holder', null,
      el('div', { class: 'tools' }, app, worker), told, grid, legend,
      el('nav', { class: 'pager', 'aria-label': 'Pages of shards' }, first, back, on, where),
      el('p', { class: 'quiet' }, 'Letters and colours are those of the workers below; striped: moving, or gone and not let go yet; "!": orphaned.')),
    card('Workers', null, moves, table.node));
  every(5_000, refresh, signal);
  follow({ set }, from, { signal, onEvents: refresh, onReset: read });
}

/** How many cells are in one row. */
function rowLength(grid) {
  const top = grid.children[0]?.offsetTop;
  const next = [...grid.children].findIndex((each) => each.offsetTop !== top);
  return next === -1 ? grid.children.length : next;
}

function about(set) {
  const { counts } = set;
  return el('dl', { class: 'figures' },
    figure('Shards', number(counts.shards)),
    figure('Held', number(counts.assigned)),
    figure('Moving', number(counts.pending)),
    figure('Orphaned', counts.orphaned > 0 ? el('span', { class: 'count-suspect' }, number(counts.orphaned)) : '0'),
    figure('Gone, still held', number(counts.gone)),
    figure('Imbalance', number(set.imbalance), set.imbalance === 0 ? 'even' : 'shards off an even share'),
    figure('Workers', number(counts.available_workers), [' of ', link(route('apps', set.workers), name(set.workers))]),
    figure('Shards of', covers(set)),
    figure('Copies', number(set.copies), set.copies > 1 ? 'holder and standbys' : 'no standbys'),
    figure('Epoch', number(set.epoch)));
}

function swatch(colour) {
  return el('span', { class: 'swatch', vars: colour ? colourVars(colour) : {}, 'aria-hidden': 'true' }, colour?.label ?? '');
}
