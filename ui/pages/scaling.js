// How many workers there should be, against how many there are. No call tells what was desired before,
// so the picture of that grows while the dashboard is open; how many there were comes from the history.

import { get, path } from '../api.js';
import { steps } from '../chart.js';
import { card, el, empty, figure, fillIfChanged, link, name, number, plural, route, visible } from '../dom.js';
import { every, soon } from '../live.js';
import { rowTable } from '../table.js';

const SAMPLE_EVERY = 2_000;

/** Of each set, oldest first: kept for as long as the dashboard is open, on whatever page. */
const samples = new Map();
const SAMPLES_MAX = 2_000;

/** Window of the picture, milliseconds: less where less is known. */
const WINDOW = 15 * 60_000;
const WINDOW_LEAST = 60_000;

/** Events of workers that are looked back at. */
const EVENTS = 500;

export function title([set]) {
  return set === undefined ? ['Scaling'] : ['Scaling', set];
}

export async function open(context) {
  await (context.parts.length === 0 ? list(context) : one(context));
}

const COLUMNS = [
  { head: 'Shard set', kind: 'wide', cell: (line) => link(route('scaling', line.set), name(line.set)) },
  { head: 'Desired', kind: 'number', cell: (line) => el('b', null, number(line.desired)) },
  { head: 'Current', kind: 'number', cell: (line) => number(line.current) },
  { head: 'Min', kind: 'number', cell: (line) => number(line.min) },
  { head: 'Max', kind: 'number', cell: (line) => number(line.max) },
  { head: 'Why', kind: 'wide', cell: (line) => visible(line.reason) },
];

async function list({ root, signal }) {
  const table = rowTable({
    caption: 'Scaling', columns: COLUMNS, key: (line) => line.set,
    none: ['No shard set says how many workers it wants: ', el('code', null, 'scaling'), ' of a set switches it on.'],
  });
  const read = async () => {
    const { shard_sets: sets } = await get('v1/shard-sets', null, signal);
    const scaled = sets.filter((set) => set.scaling);
    table.show(await Promise.all(scaled.map(async (set) => ({ set: set.set, ...await sample(set.set, signal) }))));
  };
  await read();
  root.replaceChildren(table.node);
  every(SAMPLE_EVERY, soon(read, 1_000, signal), signal);
}

/** Asks, and keeps what was answered. */
async function sample(set, signal) {
  const answer = await get(path`v1/shard-sets/${set}/scaling`, null, signal);
  const kept = samples.get(set) ?? [];
  samples.set(set, kept);
  kept.push({ at: Date.now(), desired: answer.desired, current: answer.current });
  // What stays the same needs its ends only.
  const [before, middle, now] = kept.slice(-3);
  if (now && before.desired === middle.desired && middle.desired === now.desired && before.current === middle.current && middle.current === now.current) kept.splice(-2, 1);
  if (kept.length > SAMPLES_MAX) kept.shift();
  return answer;
}

async function one({ parts: [set], root, signal }) {
  const facts = el('div');
  const picture = el('div');
  let past = [];
  const read = async () => {
    let answer;
    try {
      answer = await sample(set, signal);
    } catch (why) {
      if (why.code !== 'no-scaling') throw why;
      fillIfChanged(facts, 'off', () => empty('Scaling is off for this set: set ', el('code', null, 'scaling'), ' to have it say how many workers it wants.'));
      return;
    }
    fillIfChanged(facts, answer, () => about(answer));
    picture.replaceChildren(draw(samples.get(set), past));
  };
  const readPast = async () => {
    const { workers } = await get(path`v1/shard-sets/${set}`, null, signal);
    const [answer, { events }] = await Promise.all([
      sample(set, signal).catch(() => null),
      get('v1/events', { app: workers, kind: 'instance', limit: EVENTS }, signal),
    ]);
    past = answer ? walkBack(answer.current, events) : [];
    return workers;
  };
  const workers = await readPast();
  await read();
  root.replaceChildren(
    card('Workers wanted', [link(route('shards', set), 'Shards'), ' ', link(route('apps', workers), 'Workers')], facts),
    card('Desired and current', null, picture,
      el('p', { class: 'quiet' }, 'Current is looked up in the history of the workers; desired is kept by nobody and drawn from when this dashboard was opened.')));
  every(SAMPLE_EVERY, soon(read, 1_000, signal), signal);
}

/** How many workers were up, oldest first, from how many are now and what happened to them before
 *  (newest first). */
function walkBack(current, events) {
  const states = new Map();
  const oldestFirst = [...events].reverse();
  const changes = oldestFirst.map((event) => {
    const was = states.get(event.id) ?? before(event);
    const now = event.event === 'put' ? event.value.state : null;
    states.set(event.id, now);
    return { at: new Date(event.time).getTime(), by: (now === 'up' ? 1 : 0) - (was === 'up' ? 1 : 0) };
  });
  let count = current - changes.reduce((sum, change) => sum + change.by, 0);
  return changes.map(({ at, by }) => ({ at, value: (count += by) }));
}

/** The state before the first event that is known of an instance. */
function before(event) {
  if (event.event === 'delete') return 'up';
  const told = /^\w+, was (\w+)/.exec(event.detail ?? '');
  if (told) return told[1];
  return event.revision === event.incarnation ? null : event.value.state;
}

function draw(kept, past) {
  const to = Date.now();
  const known = kept[0].at;
  const older = past.filter((point) => point.at < known);
  const from = to - Math.min(WINDOW, Math.max(WINDOW_LEAST, to - (older[0]?.at ?? known)));
  const current = [...within(older, from), ...within(kept.map(({ at, current: value }) => ({ at, value })), from)];
  const desired = within(kept.map(({ at, desired: value }) => ({ at, value })), from);
  return steps([
    { label: 'desired', kind: 'desired', points: desired },
    { label: 'current', kind: 'current', points: current },
  ], from, to, `Desired ${kept.at(-1).desired}, current ${kept.at(-1).current} workers; ${plural(Math.round((to - from) / 60_000), 'minute')} until now`);
}

/** Those of the window, and the one before it, from which its first value comes. */
function within(points, from) {
  const first = points.findIndex((point) => point.at >= from);
  if (first === -1) return points.slice(-1);
  return points.slice(Math.max(0, first - 1));
}

function about(answer) {
  const off = answer.desired - answer.current;
  return [
    el('dl', { class: 'figures large' },
      figure('Desired', number(answer.desired)),
      figure('Current', number(answer.current), off === 0 ? 'as wanted' : off > 0 ? `${number(off)} too few` : `${number(-off)} too many`),
      figure('Between', `${number(answer.min)} and ${number(answer.max)}`),
      figure('Shards', number(answer.shards))),
    el('p', null, visible(answer.reason), '.'),
    answer.victims.length > 0 ? el('div', null, el('p', null, `${plural(answer.victims.length, 'worker')} to stop first:`), el('ul', { class: 'chips' }, answer.victims.map((each) => el('li', null, name(each))))) : null,
  ];
}
