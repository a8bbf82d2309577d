// Calls of the public API of the node that served the page, and what is known of that node: whether
// it answers, and whether what it said may be old.

/** Where the API is: beside `/ui/`, also behind a proxy that puts something before both. */
const BASE = new URL('..', document.baseURI);

/** How long a call may take before it counts as not answered, milliseconds. */
const PATIENCE = 15_000;

/** Codes of refusals of a node that cannot tell whether what it has is the newest. */
const UNCERTAIN = ['no-leader', 'timeout', 'not-ready'];

/** What the node said of a call that it refused, or why there is no answer. */
export class Problem extends Error {
  constructor(body) {
    super(body.detail || body.title || body.code);
    this.code = body.code;
    this.status = body.status ?? 0;
    this.outcome = body.outcome;
    this.retryable = body.retryable;
  }
}

/** A part of a path. Browsers take `.` and `..` for folders, however they are written. */
export function part(text) {
  if (text === '.' || text === '..') {
    const detail = `a browser cannot ask for the name "${text}"; the command line can`;
    throw new Problem({ code: 'unreachable-name', detail });
  }
  return encodeURIComponent(text);
}

/** `path\`v1/apps/${app}\`` */
export function path(texts, ...parts) {
  return texts.reduce((whole, text, at) => whole + part(parts[at - 1]) + text);
}

/** Parameters as a query; null, false and empty texts are left out, lists come several times. */
export function query(parameters) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters ?? {})) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== false && each !== '') search.append(key, each);
    }
  }
  const text = search.toString();
  return text ? `?${text}` : '';
}

export function address(to, parameters) {
  return new URL(to + query(parameters), BASE);
}

/** What the page knows of its node. Listeners are told of each change. */
export const node = {
  /** Null as long as the node answers; else since when it does not. */
  lostSince: null,
  lastSeen: null,
  /** Whether the last read may be old, since the node could not answer for the cluster. */
  stale: false,
  /** Whether that was because it knows of no leader. */
  leaderless: false,
  listeners: new Set(),
};

function tell(change) {
  const changed = Object.keys(change).some((key) => node[key] !== change[key]);
  Object.assign(node, change);
  if (changed) node.listeners.forEach((listener) => listener());
}

/** The node answered, be it on a call or on a watch. */
export function seen() {
  node.lastSeen = new Date();
  if (node.lostSince) tell({ lostSince: null });
}

export function lost() {
  if (!node.lostSince) tell({ lostSince: new Date() });
}

const revisions = new WeakMap();

/** The revision of an answer of the node: what a watch goes on from. */
export function revisionOf(answer) {
  return revisions.get(answer);
}

async function call(method, to, { parameters, body, signal, patience: most = PATIENCE } = {}) {
  const begun = new Date();
  const patience = AbortSignal.timeout(most);
  const request = {
    method,
    cache: 'no-store',
    credentials: 'same-origin',
    signal: signal ? AbortSignal.any([signal, patience]) : patience,
  };
  if (body !== undefined) {
    request.headers = { 'Content-Type': 'application/json' };
    request.body = JSON.stringify(body);
  }
  let response;
  let answer;
  try {
    response = await fetch(address(to, parameters), request);
    answer = await response.text();
  } catch (why) {
    if (signal?.aborted) throw why;
    // Where another call was answered meanwhile it is this one that takes long.
    if (!(node.lastSeen > begun)) lost();
    const detail = 'this node does not answer';
    throw new Problem({ code: 'no-answer', detail, outcome: method === 'GET' ? 'none' : 'unknown' });
  }
  seen();
  const parsed = parse(answer);
  if (parsed && typeof parsed === 'object') revisions.set(parsed, Number(response.headers.get('Roster-Revision')));
  if (!response.ok) throw new Problem(parsed ?? { code: 'malformed', detail: response.statusText, status: response.status });
  return parsed;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Reads. Where there is no leader just now, what this node has is shown, marked as what may be old. That a
 *  node has none it says after some seconds only: once it did, others do not wait for it again. */
export function get(to, parameters, signal) {
  return read('GET', to, { parameters, signal });
}

/** Has the node work out what would be if: changes nothing, so it is a read. */
export function workOut(to, body, signal) {
  return read('POST', to, { body, signal });
}

async function read(method, to, request) {
  if (node.stale) return readStale(method, to, request);
  try {
    return await readNewest(method, to, request);
  } catch (why) {
    if (!UNCERTAIN.includes(why.code)) throw why;
    return readStale(method, to, request);
  }
}

async function readNewest(method, to, request) {
  try {
    const answer = await call(method, to, request);
    tell({ stale: false, leaderless: false });
    return answer;
  } catch (why) {
    if (UNCERTAIN.includes(why.code)) tell({ stale: true, leaderless: why.code === 'no-leader' });
    throw why;
  }
}

function readStale(method, to, request) {
  return call(method, to, { ...request, parameters: { ...request.parameters, consistency: 'stale' } });
}

/** Asks whether this node can answer for the cluster again. */
export function probe(signal) {
  return readNewest('GET', 'v1/apps', { parameters: { limit: 1 }, signal }).catch(() => {});
}

/** Reads what takes no consistency: this node's own word. `patience`: how long that may take, milliseconds. */
export function ask(to, signal, patience) {
  return call('GET', to, { signal, patience });
}

export function post(to, body, signal) {
  return call('POST', to, { body, signal });
}

export function put(to, body) {
  return call('PUT', to, { body });
}

export function remove(to, parameters) {
  return call('DELETE', to, { parameters });
}
