// Events as rows: what `roster events` prints, with links.

import { el, link, name, number, plural, route, shardRoute, time, visible } from './dom.js';

/** What tells events apart: one revision may have many. */
export function eventKey(event) {
  return [event.revision, event.kind, event.event, event.app, event.id, event.set, event.shard, event.latch, event.value?.session, event.value?.owner].join('\n');
}

/** What it is of, with a link where there is a page. */
function of(event) {
  const app = () => link(route('apps', event.app), name(event.app));
  switch (event.kind) {
    case 'instance':
      return [app(), '/', link(route('apps', event.app, event.id), name(event.id))];
    case 'shard':
      return link(shardRoute(event.id), name(event.id));
    case 'app':
      return app();
    case 'ring':
      return link(route('ring', event.app), name(event.app));
    case 'worker':
      return [link(route('shards', event.set), name(event.set)), ': ', name(event.id)];
    case 'document':
      return [app(), '/', name(event.id)];
    case 'latch':
      return [event.latch, ' ', name(event.id)];
    default:
      return name(event.id);
  }
}

/** Why, or what is so now. */
function detail(event) {
  const why = event.reason ? el('b', { class: `reason reason-${reasonClass(event.reason)}` }, event.reason) : null;
  const parts = [why, event.detail ? name(event.detail, { class: 'said' }) : null];
  const value = event.value ?? {};
  if (event.event === 'put') {
    switch (event.kind) {
      case 'instance':
        if (event.revision === event.incarnation) parts.unshift('registered');
        else if (!event.detail) parts.push('updated');
        // Most ids are the address.
        if (value.ip && !event.id.includes(value.ip)) parts.push(name(`at ${value.ip}:${value.port}`));
        parts.push(fromTheStart(event));
        break;
      case 'shard':
        parts.push('made with its instance');
        break;
      case 'ring':
        parts.push(plural(value.workers?.length ?? 0, 'owner'));
        break;
      case 'worker':
        parts.push(value.release ? 'is to let go of ' : 'holds ', link(shardRoute(value.shard), name(value.shard)));
        break;
      case 'latch':
        parts.push(value.token === null ? 'waits' : `holds under token ${number(value.token)}`);
        break;
      case 'document':
        parts.push(value.by ? ['by ', name(value.by)] : null);
        break;
      case 'alarm':
        parts.push('the brake is on');
        break;
      default:
    }
  }
  if (event.event === 'delete' && event.shard) parts.push(link(shardRoute(event.shard), name(event.shard)));
  return parts.filter(Boolean).flatMap((part, at) => (at > 0 ? [' ', part] : [part]));
}

/** An operator's word outlives the instance that it was said of: the next one with its id takes no part from
 *  its first moment on. */
function fromTheStart({ revision, incarnation, value, detail }) {
  // Where there is a detail it tells so itself.
  if (revision !== incarnation || detail || !['draining', 'maintenance'].includes(value.state)) return null;
  return [el('b', { class: 'reason reason-operator' }, value.state), " from its start, by an operator's word from before"];
}

function reasonClass(reason) {
  return ['expired', 'operator', 'replaced'].includes(reason) ? reason : 'other';
}

const TIME = { head: 'Time', cell: (event) => time(event.time) };
const REVISION = { head: 'Revision', kind: 'number', cell: (event) => number(event.revision) };
const CHANGE = { head: 'Change', cell: (event) => el('span', { class: `change change-${event.event}` }, event.event) };
const KIND = { head: 'Kind', cell: (event) => visible(event.kind) };
const NAME = { head: 'Name', kind: 'of', cell: of };
const DETAIL = { head: 'Reason and details', kind: 'why', cell: detail };

export const EVENT_COLUMNS = [TIME, REVISION, CHANGE, KIND, NAME, DETAIL];
export const LIFE_COLUMNS = [TIME, REVISION, CHANGE, KIND, DETAIL];

/** Newer events before older ones, each once, at most so many. */
export function merge(newer, older, most) {
  const known = new Set();
  const all = [...newer].reverse().concat(older);
  return all.filter((event) => {
    const key = eventKey(event);
    return known.has(key) ? false : known.add(key);
  }).slice(0, most);
}
