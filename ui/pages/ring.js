// Rings: who owns how much, who owns a key, and what would move if somebody left.

import { address, get, path, revisionOf, workOut } from '../api.js';
import { colourVars, palette } from '../colour.js';
import { button, card, el, empty, figure, fill, fillIfChanged, link, name, number, percent, plural, route, svg, visible } from '../dom.js';
import { follow, soon } from '../live.js';
import { rowTable } from '../table.js';

/** Rings that are listed; there are seldom more than a few. */
const RINGS_MAX = 500;

/** Arcs that are drawn one by one. A ring of more slots is drawn by share alone. */
const ARCS_MAX = 720;

/** Owners in the table; the picture and the counts are of all. */
const OWNERS_MAX = 500;

export function title([app]) {
  return app === undefined ? ['Ring'] : ['Ring', app];
}

export async function open(context) {
  await (context.parts.length === 0 ? list(context) : one(context));
}

async function list({ root, signal }) {
  const table = rowTable({
    caption: 'Rings',
    columns: [
      { head: 'App', kind: 'wide', cell: (ring) => link(route('ring', ring.app), name(ring.app)) },
      { head: 'Owners', kind: 'number', cell: (ring) => number(ring.owners) },
      { head: 'Slots', kind: 'number', cell: (ring) => number(ring.slots) },
      { head: 'Copies of a key', kind: 'number', cell: (ring) => number(ring.replicas) },
      { head: 'Epoch', kind: 'number', cell: (ring) => number(ring.epoch) },
    ],
    key: (ring) => ring.app,
    none: ['No app has a ring: ', el('code', null, 'roster ring create APP'), ' switches one on.'],
  });
  const rings = new Map();
  const take = (events) => {
    for (const event of events) {
      if (event.event === 'put') rings.set(event.app, summary(event.app, event.value));
      else rings.delete(event.app);
    }
  };
  const read = async () => {
    rings.clear();
    const { events, revision } = await snapshot(signal);
    take(events);
    return revision;
  };
  const show = () => table.show([...rings.values()].sort((one, other) => (one.app < other.app ? -1 : 1)).slice(0, RINGS_MAX));
  const from = await read();
  show();
  root.replaceChildren(table.node);
  follow({ kind: 'ring' }, from, {
    signal,
    onEvents: (events) => { take(events); show(); },
    onReset: async () => { const revision = await read(); show(); return revision; },
  });
}

function summary(app, ring) {
  return { app, owners: ring.workers.length, slots: ring.slots.length, replicas: ring.replicas, epoch: ring.epoch };
}

/** All rings that there are. No call lists them, so it is the snapshot of a watch. */
async function snapshot(signal) {
  const stop = new AbortController();
  const response = await fetch(address('v1/watch', { kind: 'ring' }), {
    headers: { Accept: 'application/x-ndjson' }, cache: 'no-store', signal: AbortSignal.any([signal, stop.signal]),
  });
  if (!response.ok) throw new Error('the rings cannot be listed just now');
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = [];
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error('the list of the rings was cut off');
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.event === 'put') events.push(event);
      if (event.event === 'snapshot-end') {
        stop.abort();
        return { events, revision: event.revision };
      }
    }
  }
}

async function one({ parts: [app], query, root, signal }) {
  const facts = el('div');
  const picture = el('div', { class: 'ring-picture' });
  const moves = el('div', { role: 'status' });
  const found = el('div', { role: 'status', class: 'found' });
  const key = el('input', { type: 'search', placeholder: 'Any key', 'aria-label': 'Key to look up', autocomplete: 'off', spellcheck: 'false', value: query.get('key') ?? '' });
  let colours = palette([]);
  const table = rowTable({
    caption: `Owners of the ring of ${app}`,
    columns: [
      { head: 'Owner', kind: 'wide', cell: (owner) => [swatch(colours.get(owner.id)), ' ', link(route('apps', app, owner.id), name(owner.id))] },
      { head: 'Weight', kind: 'number', cell: (owner) => number(owner.weight) },
      { head: 'Slots', kind: 'number', cell: (owner) => number(owner.slots) },
      { head: 'Share of keys', kind: 'number', cell: (owner) => percent(owner.share) },
      { head: 'Fair share', kind: 'number', cell: (owner) => el('span', { class: 'quiet' }, percent(owner.fair)) },
      { head: 'What if', kind: 'last', cell: (owner) => button('Remove?', () => simulate(owner.id), { 'aria-label': `What would move without ${visible(owner.id)}` }) },
    ],
    key: (owner) => owner.id,
    none: 'No instance of this app takes part just now, so nobody owns a key.',
  });

  const without = el('div');
  const absent = card('Ring', link(route('apps', app), 'Its instances'), without);
  const shown = el('div', { class: 'columns' },
    card('Ring', link(`#/events?app=${encodeURIComponent(app)}&kind=ring`, 'Its changes'), picture, facts),
    el('div', null,
      card('Look up a key', null, el('div', { class: 'tools' }, key), found),
      card('Owners', null, moves, table.node)));
  const show = (there) => {
    shown.hidden = !there;
    absent.hidden = there;
  };

  const read = async () => {
    let ring;
    try {
      ring = await get(path`v1/apps/${app}/ring`, null, signal);
    } catch (why) {
      if (why.code !== 'no-ring' && why.code !== 'unknown-app') throw why;
      // A ring is switched on for an app that is there; what is not there is told like on any other page.
      if (why.code === 'unknown-app' && !shown.isConnected) throw why;
      fillIfChanged(without, why.code, () => (why.code === 'unknown-app' ? empty('This app is not there any more.') : noRing(app)));
      show(false);
      return 0;
    }
    show(true);
    const shares = await workOut(path`v1/apps/${app}/ring/simulate`, {}, signal);
    const owners = ownersOf(ring, shares);
    colours = palette(owners.map((owner) => owner.id));
    fillIfChanged(facts, [ring.epoch, owners.length], () => about(ring, owners, shares));
    fillIfChanged(picture, [ring.epoch, owners], () => draw(ring, owners, colours));
    table.show(owners.slice(0, OWNERS_MAX));
    if (key.value) await lookUp();
    return revisionOf(ring);
  };

  async function lookUp() {
    if (!key.value) return fill(found);
    try {
      const answer = await get(path`v1/apps/${app}/ring/owners`, { key: key.value }, signal);
      picture.querySelectorAll('.arc').forEach((arc) => arc.classList.toggle('picked', arc.dataset.owner === answer.owners[0]?.id));
      fill(found, answer.owners.length === 0 ? 'Nobody owns it: no owner is there.' : [
        'Owned by ', link(route('apps', app, answer.owners[0].id), name(answer.owners[0].id)),
        answer.owners.length > 1 ? [', copies on ', answer.owners.slice(1).flatMap((each, at) => [at > 0 ? ', ' : '', name(each.id)])] : '',
        el('span', { class: 'quiet' }, ` under epoch ${number(answer.epoch)}`)]);
    } catch (why) {
      if (!signal.aborted) fill(found, visible(why.message));
    }
  }

  async function simulate(id) {
    fill(moves, 'Working it out …');
    try {
      const answer = await workOut(path`v1/apps/${app}/ring/simulate`, { leave: [id] }, signal);
      const gains = answer.workers.filter((each) => each.weight_after > 0).map((each) => ({ id: each.id, by: each.share_after - each.share_before })).sort((a, b) => b.by - a.by);
      fill(moves,
        el('h3', null, 'Without ', name(id)),
        el('p', null, `${percent(answer.moved / answer.keys)} of ${number(answer.keys)} keys would move, all of them its own. `,
          link(route('apps', app, id), 'Drain or remove it')),
        gains.length > 0
          ? el('ul', { class: 'gains' }, gains.slice(0, 12).map((each) => el('li', null, swatch(colours.get(each.id)), ' ', name(each.id), ` +${percent(each.by)}`)))
          : el('p', null, 'Nobody else is there to take them.'),
        gains.length > 12 ? el('p', { class: 'quiet' }, `and ${number(gains.length - 12)} more`) : null);
    } catch (why) {
      if (!signal.aborted) fill(moves, visible(why.message));
    }
  }

  key.addEventListener('input', soon(lookUp, 200, signal));
  // From before the first look: a ring that is switched on meanwhile is not missed.
  const { revision } = await get('v1/apps', { limit: 1 }, signal);
  const from = await read();
  root.replaceChildren(absent, shown);
  const refresh = soon(read, 700, signal);
  follow({ app, kind: ['ring', 'app'] }, from || revision, {
    signal,
    onEvents: refresh,
    onReset: async () => {
      const { revision: now } = await get('v1/apps', { limit: 1 }, signal);
      return (await read()) || now;
    },
  });
}

function noRing(app) {
  return [
    el('p', null, el('b', null, 'This app has no ring.'), ' Its instances own no keys, however many are up.'),
    el('p', null, el('code', null, `roster ring create ${visible(app)}`), ' switches one on; it appears here by itself.'),
  ];
}

function ownersOf(ring, shares) {
  const slots = new Map();
  ring.slots.forEach((owner) => slots.set(owner, (slots.get(owner) ?? 0) + 1));
  const measured = new Map(shares.workers.map((each) => [each.id, each.share_before]));
  const total = ring.workers.reduce((sum, [, weight]) => sum + weight, 0);
  return ring.workers.map(([id, weight], at) => ({
    id, weight, slots: slots.get(at) ?? 0, share: measured.get(id) ?? 0, fair: total > 0 ? weight / total : 0,
  }));
}

function about(ring, owners, shares) {
  const vacant = ring.slots.length - owners.reduce((sum, owner) => sum + owner.slots, 0);
  const off = owners.map((owner) => (owner.fair > 0 ? owner.share / owner.fair - 1 : 0));
  return [
    el('dl', { class: 'figures' },
      figure('Epoch', number(ring.epoch)),
      figure('Slots', number(ring.slots.length), vacant > 0 ? `${number(vacant)} vacant` : null),
      figure('Copies of a key', number(ring.replicas)),
      figure('Seed', number(ring.seed)),
      figure('Off a fair share', off.length > 0 ? `${signed(off.reduce((one, other) => Math.min(one, other)))} to ${signed(off.reduce((one, other) => Math.max(one, other)))} %` : '–')),
    ring.left_out?.length > 0 ? el('p', { class: 'warning' }, `${plural(ring.left_out.length, 'instance')} found no slot: the weights are too many.`) : null,
    el('p', { class: 'quiet' }, `Shares are of ${number(shares.keys)} sample keys. `, ring.slots.length > ARCS_MAX ? 'There are too many slots to draw each: arcs are by share.' : 'Each arc is a slot; keys of vacant ones are owned by the others.'),
  ];
}

function signed(part) {
  const rounded = Math.round(part * 100);
  return rounded > 0 ? `+${rounded}` : String(rounded);
}

function swatch(colour) {
  return el('span', { class: 'swatch', vars: colour ? colourVars(colour) : {}, 'aria-hidden': 'true' }, colour?.label ?? '');
}

/** Arcs as `{ owner, part }` in their order. */
function arcs(ring, owners) {
  if (ring.slots.length > ARCS_MAX) return owners.filter((owner) => owner.share > 0).map((owner) => ({ owner: owner.id, part: owner.share }));
  return ring.slots.map((owner) => ({ owner: ring.workers[owner]?.[0] ?? null, part: 1 / ring.slots.length }));
}

function draw(ring, owners, colours) {
  const all = arcs(ring, owners);
  if (all.length === 0) return empty('No owner, no arc.');
  const [size, outer, inner] = [320, 150, 96];
  let turned = 0;
  const paths = all.map(({ owner, part }) => {
    const [begin, end] = [turned, turned + part];
    turned = end;
    const colour = owner === null ? null : colours.get(owner);
    const middle = point((begin + end) / 2, (outer + inner) / 2);
    return [
      svg('path', { class: owner === null ? 'arc vacant' : 'arc', 'data-owner': owner ?? '', vars: colour ? colourVars(colour) : {}, d: arc(begin, end, outer, inner) },
        svg('title', null, owner === null ? 'vacant' : visible(owner))),
      colour && part > 0.025 ? svg('text', { class: 'arc-label', x: middle[0], y: middle[1], 'text-anchor': 'middle', 'dominant-baseline': 'central' }, colour.label) : null,
    ];
  });
  return svg('svg', { viewBox: `${-size / 2} ${-size / 2} ${size} ${size}`, role: 'img', 'aria-label': `Ring of ${plural(owners.length, 'owner')}; the table of owners tells the same` },
    paths.flat(),
    svg('text', { class: 'ring-number', 'text-anchor': 'middle', y: 2 }, number(owners.length)),
    svg('text', { class: 'ring-caption', 'text-anchor': 'middle', y: 24 }, owners.length === 1 ? 'owner' : 'owners'));
}

function point(part, radius) {
  const angle = part * 2 * Math.PI - Math.PI / 2;
  return [Math.cos(angle) * radius, Math.sin(angle) * radius].map((value) => Number(value.toFixed(2)));
}

function arc(begin, end, outer, inner) {
  // A whole circle has no direction: two halves have.
  const stop = Math.min(end, begin + 0.99999);
  const large = stop - begin > 0.5 ? 1 : 0;
  return `M${point(begin, outer)}A${outer} ${outer} 0 ${large} 1 ${point(stop, outer)}L${point(stop, inner)}A${inner} ${inner} 0 ${large} 0 ${point(begin, inner)}Z`;
}
