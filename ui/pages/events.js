// The history, newest first, and live at its head.

import { get, revisionOf } from '../api.js';
import { button, el, fill, number, plural, visible } from '../dom.js';
import { EVENT_COLUMNS, eventKey, merge } from '../events.js';
import { follow, soon } from '../live.js';
import { rowTable } from '../table.js';

const PAGE = 100;
const EVENTS_MAX = 5_000;
const KINDS = ['instance', 'shard', 'app', 'document', 'ring', 'worker', 'latch', 'alarm'];

export function title() {
  return ['Events'];
}

export async function open({ root, signal, query }) {
  const app = el('input', { type: 'search', value: query.get('app') ?? '', placeholder: 'App, whole name', 'aria-label': 'Events of this app', autocomplete: 'off', spellcheck: 'false' });
  const kind = el('select', { 'aria-label': 'Kind' }, el('option', { value: '' }, 'all kinds'), KINDS.map((each) => el('option', { value: each }, each)));
  const until = el('input', { type: 'text', placeholder: 'Until: revision or time', 'aria-label': 'Until this revision or time', autocomplete: 'off', value: query.get('until') ?? '' });
  kind.value = KINDS.includes(query.get('kind')) ? query.get('kind') : '';
  const live = el('button', { type: 'button', 'aria-pressed': 'true' }, 'Live');
  const table = rowTable({ caption: 'Events', columns: EVENT_COLUMNS, key: eventKey, none: 'No event is kept that matches.' });
  const older = button('Older', () => turn());
  const where = el('p', { class: 'quiet', role: 'status' });
  let events = [];
  let waiting = [];
  let cursor = null;
  let watching = new AbortController();

  const wanted = () => ({ app: app.value.trim(), kind: kind.value });
  const say = (covered) => {
    const first = covered?.[0]?.[0];
    const gaps = covered?.length > 1 ? ' Some between are missing on this node.' : '';
    fill(where, `${plural(events.length, 'event')}.`, cursor === null && first > 1 ? ` This node keeps events from revision ${number(first)} on.` : '', gaps,
      waiting.length > 0 ? ` ${number(waiting.length)} new ones wait.` : '');
    older.hidden = cursor === null || events.length >= EVENTS_MAX;
  };
  const read = async () => {
    const answer = await get('v1/events', { ...wanted(), until: until.value.trim(), limit: PAGE }, signal);
    [events, waiting, cursor] = [answer.events, [], answer.next_cursor];
    table.show(events);
    say(answer.covered);
    return revisionOf(answer);
  };
  async function turn() {
    older.disabled = true;
    try {
      const answer = await get('v1/events', { ...wanted(), until: until.value.trim(), limit: PAGE, cursor }, signal);
      events = events.concat(answer.events);
      cursor = answer.next_cursor;
      table.show(events);
      say(answer.covered);
    } finally {
      older.disabled = false;
    }
  }
  const draw = soon(() => {
    if (live.getAttribute('aria-pressed') === 'true') {
      events = merge(waiting, events, Math.max(PAGE, events.length));
      waiting = [];
      table.show(events);
    }
    say();
  }, 400, signal);
  const restart = async () => {
    watching.abort();
    watching = new AbortController();
    const mine = AbortSignal.any([signal, watching.signal]);
    let from;
    try {
      from = await read();
    } catch (why) {
      if (!signal.aborted) fill(where, visible(why.message));
      return;
    }
    // What is wanted up to a moment does not grow.
    if (until.value.trim()) return;
    follow(wanted(), from, {
      signal: mine,
      onEvents: (more) => { waiting = waiting.concat(more).slice(-EVENTS_MAX); draw(); },
      onReset: read,
    });
  };
  live.addEventListener('click', () => {
    const on = live.getAttribute('aria-pressed') !== 'true';
    live.setAttribute('aria-pressed', String(on));
    fill(live, on ? 'Live' : 'Paused');
    draw();
  });
  const changed = soon(restart, 400, signal);
  app.addEventListener('input', changed);
  kind.addEventListener('change', changed);
  until.addEventListener('change', changed);
  await restart();
  root.replaceChildren(el('div', { class: 'tools' }, app, kind, until, live), where, table.node, older);
}
