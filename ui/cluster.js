// What `GET /v1/cluster` says, asked for every two seconds for all that shows it: the line at the top,
// the overview, the page of the cluster.

import { ask } from './api.js';
import { sleep } from './live.js';

const EVERY = 2_000;
const SAMPLES_MAX = 300;
const HASHES_MAX = 200;

/** The newest answer, and what was seen over time. */
export const cluster = {
  now: null,
  /** The node that answers. */
  self: null,
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
      try {
        const answer = await ask('v1/cluster', signal);
        if (!cluster.self) cluster.self = (await ask('v1/node', signal)).id;
        take(answer);
      } catch {
        // The banner says so already.
        cluster.self = null;
      }
    }
    await sleep(EVERY, signal);
  }
}

function take(answer) {
  cluster.now = answer;
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

/** Tells `listener` of each answer until `signal` aborts, and of the one that is there already. */
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

/** The health of the cluster in one word, with why. */
export function health() {
  const now = cluster.now;
  if (!now) return { word: 'Unknown', level: 'none', why: 'no answer yet' };
  if (!now.leader) return { word: 'Down', level: 'bad', why: 'no leader is known: nothing can be written' };
  const same = agreement();
  if (same && !same.agree) {
    return { word: 'Diverged', level: 'bad', why: `state hashes differ at revision ${same.revision}` };
  }
  const silent = now.nodes.filter((node) => node.role === null).map((node) => node.id);
  if (silent.length > 0) {
    const why = `${silent.length === 1 ? 'node' : 'nodes'} ${silent.join(', ')} not reached`;
    return { word: 'Degraded', level: 'warn', why };
  }
  if (now.brake?.brakes?.length > 0) {
    return { word: 'Braking', level: 'warn', why: 'many instances fell silent together; removals are slowed down' };
  }
  if (now.alarms.length > 0) return { word: 'Degraded', level: 'warn', why: now.alarms[0].detail };
  return { word: 'Healthy', level: 'good', why: 'a leader, all nodes reached, no alarms' };
}
