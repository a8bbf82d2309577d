// The nodes, the alarms and the brake.

import { ask, get } from '../api.js';
import { agreement, alarms as toldAlarms, cluster, health, leader, onCluster, role, roleMark } from '../cluster.js';
import { brakeWord, clearBrakeWord } from '../dialogs.js';
import { button, card, el, empty, figure, fillIfChanged, link, name, number, plural, route, time, visible } from '../dom.js';
import { every, soon } from '../live.js';
import { rowTable } from '../table.js';

export function title() {
  return ['Cluster'];
}

const COLUMNS = [
  { head: 'Node', cell: (node) => [el('b', null, node.id), node.id === cluster.self ? el('span', { class: 'quiet' }, ' this one') : null] },
  { head: 'Role', cell: (node) => roleMark(node) },
  { head: 'API', cell: (node) => name(node.api) },
  { head: 'Peers', cell: (node) => name(node.peer) },
  { head: 'Commit', kind: 'number', quiet: true, cell: (node) => number(node.commit) },
  { head: 'Applied', kind: 'number', quiet: true, cell: (node) => number(node.applied) },
  { head: 'Lag', kind: 'number', quiet: true, cell: (node) => number(node.lag) },
  { head: 'State hash', quiet: true, cell: (node) => (node.state_hash ? el('code', null, node.state_hash) : '–') },
  { head: 'at revision', kind: 'number', quiet: true, cell: (node) => number(node.state_hash_at) },
  { head: 'Version', cell: (node) => name(node.version ?? '–') },
];

export async function open({ root, signal }) {
  const facts = el('div');
  const here = el('div');
  const alarms = el('div');
  const brake = el('div');
  const table = rowTable({ caption: 'Nodes', columns: COLUMNS, key: (node) => node.id, none: 'No node is known.' });
  const readNode = async () => {
    const node = await ask('v1/node', signal);
    fillIfChanged(here, [node, leader()], () => aboutNode(node));
  };
  const readBrake = async () => {
    const answer = await get('v1/cluster/brake', null, signal);
    fillIfChanged(brake, answer, () => aboutBrake(answer, refresh));
  };
  const refresh = soon(() => Promise.all([readNode(), readBrake()]), 1_000, signal);
  root.replaceChildren(
    card('Cluster', null, facts),
    card('Nodes', null, table.node),
    card('Alarms', null, alarms),
    card('Brake', null, brake),
    card('This node', null, here));
  onCluster(() => {
    const now = cluster.now;
    table.show(now.nodes);
    fillIfChanged(facts, [now.cluster_id, leader(), now.term, now.pace, health(), agreement(), now.heartbeats_per_second], () => about(now));
    const told = toldAlarms();
    fillIfChanged(alarms, told, () => (told.length > 0 ? el('ul', { class: 'lines' }, told.map(alarm)) : empty('No alarm.')));
  }, signal);
  every(3_000, refresh, signal);
  // What the node knows by itself is shown meanwhile: without a leader the rest takes seconds.
  await Promise.all([readNode(), readBrake()]);
}

function about(now) {
  const { word, level, why } = health();
  const same = agreement();
  return [
    el('p', null, el('span', { class: `health health-${level}` }, word), ' ', el('span', { class: 'quiet' }, visible(why))),
    el('dl', { class: 'figures' },
      figure('Leader', leader() ? `node ${leader()}` : 'none'),
      figure('Term', number(now.term)),
      figure('State hashes', same ? (same.agree ? 'agree' : 'differ') : 'not compared yet', same ? `${same.nodes} nodes at revision ${number(same.revision)}` : null),
      figure('Heartbeats', number(now.heartbeats_per_second), 'a second'),
      figure('Pace', `${now.pace.told} %`, now.pace.told > 100 ? 'TTLs and heartbeats are lengthened' : 'nothing is lengthened'),
      figure('Cluster id', el('code', null, visible(now.cluster_id ?? '–')))),
  ];
}

function alarm(each) {
  return el('li', null, el('b', null, visible(each.code)), each.since ? [' since ', time(each.since)] : null, ': ', name(each.detail, { class: 'said' }));
}

function aboutNode(node) {
  return el('dl', { class: 'figures' },
    figure('Node', node.id),
    figure('Role', role(node).word),
    figure('Memory', `${number(Math.round(node.memory_bytes / 1e6))} MB`),
    figure('CPU time', `${node.cpu_seconds.toFixed(1)} s`),
    figure('Applied', number(node.applied)),
    figure('Version', node.version),
    node.loading ? figure('Loading', visible(node.loading)) : null);
}

function aboutBrake(brake, changed) {
  const { settings } = brake;
  const all = brake.overrides.find((each) => each.scope === 'all');
  const act = (what) => async () => { if (await what()) changed(); };
  return [
    brake.brakes.length > 0 ? el('ul', { class: 'lines' }, brake.brakes.map((each) => el('li', null,
      el('b', null, 'On '), each.app ? ['for ', link(route('apps', each.app), name(each.app))] : `for ${visible(each.scope)}${each.node ? ` ${each.node}` : ''}`,
      ' since ', time(each.since), `: ${number(each.missing)} of ${number(each.of)} fell silent; ${number(each.removed_per_minute)} removed a minute. `,
      each.app ? button('Hold or release', act(() => brakeWord(each.app))) : null))) : el('p', null, 'Off. ', `${plural(brake.suspect, 'instance is', 'instances are')} suspect.`),
    brake.overrides.length > 0 ? el('ul', { class: 'lines' }, brake.overrides.map((each) => el('li', null,
      'An operator says ', el('b', null, each.mode), each.app ? [' for ', name(each.app)] : ' for all', ': ', name(each.reason, { class: 'said' }), each.expires ? [', until ', time(each.expires), ' '] : ' ',
      button('Take it back', act(() => clearBrakeWord(each)))))) : null,
    el('p', { class: 'quiet' }, `It goes on when more than ${settings.app_share_percent} % of an app or ${settings.share_percent} % of all fall silent within ${settings.window}; up to ${number(settings.exempt)} of an app and ${number(settings.exempt_of_all)} of all never count. What fell silent is then removed over ${settings.pace}.`),
    all ? null : button('Hold or release all', act(() => brakeWord(null))),
  ];
}
