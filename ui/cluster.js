// What `GET /v1/cluster` says, asked for every two seconds for all that shows it: the line at the top,
// the overview, the page of the cluster.

import { ask, node as connection } from './api.js';
import { el, number, plural, visible } from './dom.js';
import { sleep } from './live.js';

const EVERY = 2_000;

/** A node asks the others for half a second at most: one that says nothing for so long is taken for
 *  gone. With the time between two questions it makes five seconds. Milliseconds. */
const PATIENCE = 3_000;

/** An answer that takes no longer is not worth a word, milliseconds. */
const PROMPT = 1_000;
const SAMPLES_MAX = 300;
const HASHES_MAX = 200;

/** The newest answer, and what was seen over time. */
export const cluster = {
  now: null,
  /** The node that answers. */
  self: null,
  /** When the question was asked that has no answer yet; null between questions. */
  askedAt: null,
  /** `{ at, heartbeats }` per answer, oldest first. */
  samples: [],
  listeners: new Set(),
};

/** State hashes by the revision at which they were told: `revision -> Map(node -> hash)`. Nodes are
 *  seldom asked at the same revision, so what was told before is compared too. */
const hashes = new Map();

export async function keepAsking(signal) {
  while (!signal.aborted) {
    if (!document.hidden) {
      cluster.askedAt = Date.now();
      try {
        const answer = await ask('v1/cluster', signal, PATIENCE);
        cluster.askedAt = null;
        if (!cluster.self) cluster.self = (await ask('v1/node', signal, PATIENCE)).id;
        take(answer);
      } catch {
        // The banner says so already. What answers there next may be another node.
        cluster.askedAt = null;
        cluster.self = null;
      }
    }
    await sleep(EVERY, signal);
  }
}

/** For how many whole seconds this node has not answered, null while it answers promptly. */
export function silentFor() {
  const { lostSince, lastSeen } = connection;
  const waits = cluster.askedAt !== null && Date.now() - cluster.askedAt > PROMPT && !(lastSeen > cluster.askedAt);
  if (!lostSince && !waits) return null;
  return Math.round((Date.now() - (lastSeen ?? lostSince ?? cluster.askedAt)) / 1_000);
}

function reachesMajority({ nodes }) {
  return 2 * nodes.filter((node) => node.role !== null).length > nodes.length;
}

function take(answer) {
  // A node that was cut off may name a leader, itself too, for a while yet: it leads nobody.
  cluster.now = reachesMajority(answer) ? answer : { ...answer, leader: null };
  cluster.samples.push({ at: Date.now(), heartbeats: answer.heartbeats_per_second });
  if (cluster.samples.length > SAMPLES_MAX) cluster.samples.shift();
  for (const node of answer.nodes) {
    if (node.state_hash_at === null) continue;
    const known = hashes.get(node.state_hash_at) ?? new Map();
    known.set(node.id, node.state_hash);
    hashes.delete(node.state_hash_at);
    hashes.set(node.state_hash_at, known);
  }
  while (hashes.size > HASHES_MAX) hashes.delete(hashes.keys().next().value);
  cluster.listeners.forEach((listener) => listener());
}

/** What the listeners were told last. */
let toldHealth = '';

/** Tells them again if the health is another one meanwhile: a silence and a refusal change it too. */
export function retell() {
  const now = JSON.stringify(health());
  if (now === toldHealth || !cluster.now) return;
  toldHealth = now;
  cluster.listeners.forEach((listener) => listener());
}

connection.listeners.add(retell);

/** Tells `listener` of each answer and of each change of health until `signal` aborts, and of the one that is there already. */
export function onCluster(listener, signal) {
  cluster.listeners.add(listener);
  signal.addEventListener('abort', () => cluster.listeners.delete(listener), { once: true });
  if (cluster.now) listener();
}

/** Whether the nodes' states are the same, of the newest revision at which two or more told theirs. */
export function agreement() {
  let best = null;
  for (const [revision, known] of hashes) {
    if (known.size < 2) continue;
    if (new Set(known.values()).size > 1) return { agree: false, revision, nodes: known.size };
    if (!best || known.size > best.nodes || (known.size === best.nodes && revision > best.revision)) {
      best = { agree: true, revision, nodes: known.size };
    }
  }
  return best;
}

/** The leader, null where there is none: by the node's word about its cluster, or since it just refused a
 *  read for want of one. */
export function leader() {
  return connection.leaderless ? null : cluster.now?.leader ?? null;
}

/** The role of a node: a word, and which of the known kinds it is. */
export function role(node) {
  if (node.role === null) return { word: 'not reached', kind: 'none' };
  if (node.role === 'leader' && !leader()) return { word: 'was leader', kind: 'none' };
  return { word: node.role, kind: node.role };
}

export function roleMark(node) {
  const { word, kind } = role(node);
  return el('span', { class: `role role-${kind}` }, visible(word));
}

/** Of which nodes nothing was heard. */
function silentNodes() {
  return cluster.now.nodes.filter((node) => node.role === null).map((node) => node.id);
}

function notReached(silent) {
  return `${silent.length === 1 ? 'node' : 'nodes'} ${silent.join(', ')} not reached`;
}

/** What it means that there is no leader, and why there is none, as far as that can be told from here. */
export function leaderless() {
  const { nodes } = cluster.now;
  const silent = silentNodes();
  const why = reachesMajority(cluster.now)
    ? `${silent.length > 0 ? `${notReached(silent)}; ` : ''}the others have not elected one yet`
    : `${notReached(silent)}, so ${nodes.length - silent.length} of ${plural(nodes.length, 'node')} ${nodes.length - silent.length === 1 ? 'is' : 'are'} no majority`;
  const applied = nodes.find((node) => node.id === cluster.self)?.applied;
  const asOf = applied === undefined || applied === null ? 'what is shown may be old' : `what is shown is as of revision ${number(applied)}`;
  return `nothing can be written, and ${asOf}: ${why}`;
}

/** The alarms of the cluster, and that there is no leader where no alarm says so. */
export function alarms() {
  const { alarms: told } = cluster.now;
  if (leader() || told.some((each) => each.code === 'no-quorum')) return told;
  return [{ code: 'no-leader', since: null, detail: leaderless() }, ...told];
}

/** The health of the cluster in one word, with why. */
export function health() {
  const now = cluster.now;
  if (connection.lostSince) return { word: 'Unreachable', level: 'bad', why: 'this node does not answer' };
  if (!now) return { word: 'Unknown', level: 'none', why: 'no answer yet' };
  if (silentFor() !== null) return { word: 'No answer', level: 'warn', why: 'this node does not answer just now' };
  if (!leader()) return { word: 'No leader', level: 'bad', why: leaderless() };
  const same = agreement();
  if (same && !same.agree) {
    return { word: 'Diverged', level: 'bad', why: `state hashes differ at revision ${number(same.revision)}` };
  }
  const silent = silentNodes();
  if (silent.length > 0) return { word: 'Degraded', level: 'warn', why: notReached(silent) };
  if (now.brake?.brakes?.length > 0) {
    return { word: 'Braking', level: 'warn', why: 'many instances fell silent together; removals are slowed down' };
  }
  if (now.alarms.length > 0) return { word: 'Degraded', level: 'warn', why: now.alarms[0].detail };
  return { word: 'Healthy', level: 'good', why: 'a leader, all nodes reached, no alarms' };
}
