// How the cluster is, on one page.

import { get, revisionOf } from '../api.js';
import { sparkline } from '../chart.js';
import { agreement, cluster, health, leader, onCluster, roleMark } from '../cluster.js';
import { STATES, card, el, empty, figure, fillIfChanged, link, name, number, plural, route, state } from '../dom.js';
import { EVENT_COLUMNS, eventKey, merge } from '../events.js';
import { every, follow, soon } from '../live.js';
import { rowTable } from '../table.js';

const EVENTS = 15;
const KINDS = ['instance', 'app', 'ring', 'latch', 'alarm', 'document'];

export function title() {
  return ['Overview'];
}

export async function open({ root, signal }) {
  const word = el('div', { class: 'word' });
  const nodes = el('div', { class: 'nodes' });
  const instances = el('div');
  const beats = el('div');
  const brake = el('div');
  const shards = el('div');
  const table = rowTable({ caption: 'Last events', columns: EVENT_COLUMNS, key: eventKey, none: 'Nothing happened yet that this node knows of.' });
  let events = [];

  const read = async () => {
    const answer = await get('v1/events', { kind: KINDS, limit: EVENTS }, signal);
    events = answer.events;
    table.show(events);
    return revisionOf(answer);
  };
  const readShards = async () => {
    const { shard_sets: sets } = await get('v1/shard-sets', null, signal);
    fillIfChanged(shards, sets, () => showShards(sets));
  };
  const [from] = await Promise.all([read(), readShards()]);
  root.replaceChildren(
    el('div', { class: 'grid' },
      card('Health', link(route('cluster'), 'Cluster'), word),
      card('Instances by state', link(route('apps'), 'Apps'), instances),
      card('Heartbeats', null, beats, brake),
      card('Shards', link(route('shards'), 'Shards'), shards)),
    card('Nodes', null, nodes),
    card('Last events', link(route('events'), 'All events'), table.node));
  onCluster(() => {
    const now = cluster.now;
    fillIfChanged(word, [leader(), now.term, health(), agreement()?.agree, now.pace], showHealth);
    fillIfChanged(nodes, [now.nodes, leader(), cluster.self, agreement()], () => now.nodes.map(showNode));
    fillIfChanged(instances, now.counts, () => showCounts(now.counts));
    fillIfChanged(beats, cluster.samples.length, showBeats);
    fillIfChanged(brake, [now.brake, now.alarms], showBrake);
  }, signal);
  every(3_000, soon(readShards, 1_000, signal), signal);
  follow({ kind: KINDS }, from, {
    signal,
    onEvents: (more) => {
      events = merge(more.slice(-EVENTS), events, EVENTS);
      table.show(events);
    },
    onReset: read,
  });
}

function showHealth() {
  const { word, level, why } = health();
  const { term, pace } = cluster.now;
  const same = agreement();
  const hashes = same
    ? same.agree ? `the same on ${same.nodes} nodes` : 'they differ'
    : 'not compared yet';
  return [
    el('p', { class: `big health-${level}` }, word),
    el('p', { class: 'quiet' }, why),
    el('dl', { class: 'figures' },
      figure('Leader', leader() ? `node ${leader()}` : 'none'),
      figure('Term', number(term)),
      figure('State', hashes),
      pace.told > 100 ? figure('Pace', `${pace.told} %`) : null),
  ];
}

function showNode(node) {
  const reached = node.role !== null;
  const same = agreement();
  return el('article', { class: `node ${reached ? '' : 'gone'}` },
    el('header', null,
      el('h3', null, `Node ${node.id}`),
      roleMark(node),
      node.id === cluster.self ? el('span', { class: 'quiet' }, 'this one') : null),
    el('dl', { class: 'figures' },
      figure('Lag', reached ? plural(node.lag, 'entry', 'entries') : '–'),
      figure('Applied', number(node.applied)),
      figure('State hash', reached ? el('code', { title: `at revision ${node.state_hash_at}` }, node.state_hash) : '–',
        reached && same ? (same.agree ? 'agrees' : 'differs') : null),
      figure('Address', name(node.api)),
      figure('Version', reached ? name(node.version) : '–')));
}

function showCounts(counts) {
  const all = STATES.reduce((sum, each) => sum + counts[each], 0);
  return [
    el('p', { class: 'big' }, number(all)),
    el('div', { class: 'bar', role: 'img', 'aria-label': STATES.map((each) => `${number(counts[each])} ${each}`).join(', ') },
      STATES.filter((each) => counts[each] > 0).map((each) => el('span', { class: `fill-${each}`, vars: { '--part': counts[each] } }))),
    el('ul', { class: 'counts' }, STATES.map((each) => el('li', null, state(each), ' ', el('b', null, number(counts[each]))))),
  ];
}

function showBeats() {
  const values = cluster.samples.map((sample) => sample.heartbeats);
  const now = cluster.now.heartbeats_per_second;
  return [
    el('p', { class: 'big' }, number(now), el('small', null, ' a second')),
    sparkline(values, 'Heartbeats a second while this page is open'),
  ];
}

function showBrake() {
  const { brake } = cluster.now;
  // That there is no leader stands beside it already.
  const first = cluster.now.alarms.find((each) => each.code !== 'no-quorum');
  const on = brake?.brakes ?? [];
  if (on.length > 0) {
    return el('p', { class: 'warning' }, el('b', null, 'Brake on: '), `${plural(cluster.now.counts.suspect, 'instance')} suspect. `, link(route('cluster'), 'Look'));
  }
  const others = first ? el('p', { class: 'warning' }, el('b', null, 'Alarm: '), name(first.detail, { class: 'said' })) : null;
  const words = brake?.overrides?.length ?? 0;
  return [el('p', { class: 'quiet' }, words > 0 ? `Brake off; ${plural(words, "operator's word", "operator's words")} standing.` : 'Brake off.'), others];
}

function showShards(sets) {
  if (sets.length === 0) return empty('No shard set yet: ', el('code', null, 'roster shards create'), ' makes one.');
  const sum = (key) => sets.reduce((total, set) => total + set.counts[key], 0);
  return [
    el('p', { class: 'big' }, number(sum('shards')), el('small', null, ` in ${plural(sets.length, 'set')}`)),
    el('dl', { class: 'figures' },
      figure('Held', number(sum('assigned'))),
      figure('Moving', number(sum('pending'))),
      figure('Orphaned', number(sum('orphaned'))),
      figure('Workers', number(sum('available_workers')))),
  ];
}
