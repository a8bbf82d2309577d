// One instance: its record, its shards, and its life with the reasons.

import { get, path, revisionOf } from '../api.js';
import { actions } from '../dialogs.js';
import { ago, button, card, el, empty, figure, fill, fillIfChanged, link, name, number, plural, route, shardRoute, state, time, visible } from '../dom.js';
import { LIFE_COLUMNS, eventKey, merge } from '../events.js';
import { every, follow, soon } from '../live.js';
import { rowTable } from '../table.js';

const EVENTS = 100;
const EVENTS_MAX = 2_000;
const SHARDS_MAX = 200;

export function title([app, id]) {
  return ['Apps', app, id];
}

export async function open({ parts: [app, id], root, signal }) {
  const facts = el('div');
  const work = el('div');
  const raw = el('pre', { class: 'raw', tabindex: '0', 'aria-label': 'Raw record' });
  const life = rowTable({ caption: `Life of ${id}`, columns: LIFE_COLUMNS, key: eventKey, none: 'This node keeps no event of it.' });
  const covered = el('p', { class: 'quiet' });
  let events = [];
  let cursor = null;

  const readRecord = async () => {
    const record = await orGone(get(path`v1/apps/${app}/instances/${id}`, null, signal));
    // Only an operator's word makes these.
    const overridden = record && ['draining', 'maintenance'].includes(record.state);
    const word = overridden ? await orGone(get(path`v1/apps/${app}/instances/${id}/override`, null, signal)) : null;
    fillIfChanged(facts, [record, word, record && Math.floor(Date.now() / 1000)], () => (record ? about(record, word, readRecord) : gone()));
    fillIfChanged(raw, record, () => (record ? JSON.stringify(record, null, 2).replace(/[^\n]+/g, visible) : 'It is not registered.'));
  };
  const readWork = async () => fillIfChanged(work, ...await shardsOf(app, id, signal));
  const readLife = async () => {
    const answer = await get('v1/events', { app, instance: id, limit: EVENTS }, signal);
    events = answer.events;
    cursor = answer.next_cursor;
    life.show(events);
    showCovered(answer.covered);
    return revisionOf(answer);
  };
  const showCovered = (ranges) => {
    const first = ranges[0]?.[0];
    fill(covered, first > 1 ? `This node keeps events from revision ${number(first)} on. ` : '', ranges.length > 1 ? 'Some between are missing.' : '');
    older.hidden = cursor === null || events.length >= EVENTS_MAX;
  };
  const older = button('Older', async () => {
    const answer = await get('v1/events', { app, instance: id, limit: EVENTS, cursor }, signal);
    events = events.concat(answer.events);
    cursor = answer.next_cursor;
    life.show(events);
    showCovered(answer.covered);
  });
  const refresh = soon(() => Promise.all([readRecord(), readWork()]), 700, signal);

  const [from] = await Promise.all([readLife(), readRecord(), readWork()]);
  root.replaceChildren(
    card('Record', null, facts),
    card('Timeline', link(`#/events?app=${encodeURIComponent(app)}`, 'Events of the app'), life.node, older, covered),
    card('Shards', link(route('shards'), 'All shards'), work),
    card('Raw record', null, raw));
  every(5_000, refresh, signal);
  follow({ app, id, kind: ['instance', 'shard', 'worker'] }, from, {
    signal,
    onEvents: (more) => {
      events = merge(more.filter((event) => event.kind !== 'worker'), events, EVENTS_MAX);
      life.show(events);
      refresh();
    },
    onReset: readLife,
  });
}

/** Null where it is not there. */
async function orGone(answer) {
  try {
    return await answer;
  } catch (why) {
    if (['unknown-instance', 'unknown-app', 'unknown-override', 'unknown-shard-set'].includes(why.code)) return null;
    throw why;
  }
}

function about(record, word, changed) {
  return [
    el('div', { class: 'headline' }, state(record.state), actions(record, changed)),
    word ? el('p', { class: 'warning' }, el('b', null, `${word.state} by an operator`),
      word.reason ? [': ', name(word.reason, { class: 'said' })] : '', word.expires ? [', until ', time(word.expires)] : ', until it is taken back') : null,
    el('dl', { class: 'figures' },
      figure('Address', record.ip ? name(record.ip.includes(':') ? `[${record.ip}]:${record.port}` : `${record.ip}:${record.port}`) : '–'),
      figure('Host name', name(record.hostname || '–')),
      figure('Version', name(record.version || '–')),
      figure('Zone', name(record.zone || '–')),
      figure('Weight', number(record.weight)),
      figure('Last heartbeat', ago(record.last_heartbeat)),
      figure('TTL', record.ttl),
      figure('Registered', time(record.registered_at)),
      figure('Incarnation', number(record.incarnation)),
      figure('Session', record.session),
      figure('Revision', number(record.revision))),
    Object.keys(record.metadata).length > 0
      ? el('dl', { class: 'pairs' }, Object.entries(record.metadata).map(([key, value]) => [el('dt', null, name(key)), el('dd', null, name(value, { class: 'whole' }))]))
      : el('p', { class: 'quiet' }, 'No metadata.'),
  ];
}

function gone() {
  return empty('It is not registered now. Its timeline tells since when and why; the page shows it as soon as it registers again.');
}

/** What it is as a shard, and which shards it works on: as what they are compared by, and how to show it. */
async function shardsOf(app, id, signal) {
  const { shard_sets: sets } = await get('v1/shard-sets', null, signal);
  const shard = `${app.replaceAll('%', '%25').replaceAll('/', '%2F')}/${id}`;
  const found = await Promise.all(sets.map(async (set) => ({
    set: set.set,
    asShard: (await orGone(get(path`v1/shard-sets/${set.set}/shards`, { shard, gone: 'true' }, signal)))?.shards[0] ?? null,
    asWorker: set.workers === app ? await orGone(get(path`v1/shard-sets/${set.set}/workers/${id}`, null, signal)) : null,
  })));
  return [found, () => {
    const lines = found.flatMap((each) => [asShard(each, sets), asWorker(each)]).filter(Boolean);
    return lines.length > 0 ? lines : empty('No shard set covers it, and it works on none.');
  }];
}

function asShard({ set, asShard: shard }, sets) {
  if (!shard) return null;
  const workers = sets.find((each) => each.set === set).workers;
  return el('p', null, 'As a shard of ', link(route('shards', set), name(set)), ': ',
    shard.holder ? ['held by ', link(route('apps', workers, shard.holder), name(shard.holder)), ` under grant ${number(shard.grant)}`] : 'held by nobody',
    shard.next ? [', going to ', name(shard.next)] : null,
    shard.gone ? ', gone with its instance, and not let go yet' : null, '.');
}

function asWorker({ set, asWorker: work }) {
  if (!work) return null;
  const shown = work.shards.slice(0, SHARDS_MAX);
  const more = work.shards.length - shown.length;
  return el('div', null,
    el('p', null, 'As a worker of ', link(route('shards', set), name(set)), `: holds ${plural(work.shards.length, 'shard')}, ${number(work.shards.filter((each) => each.release).length)} of them to let go.`),
    el('ul', { class: 'chips' }, shown.map((each) => el('li', { class: each.release ? 'moving' : null }, link(shardRoute(each.shard), name(each.shard))))),
    more > 0 ? el('p', { class: 'quiet' }, `and ${number(more)} more`) : null);
}
