// What an operator does: each asks for a reason, shows beforehand what it would move, and says what
// came of it. They use the calls that the command line uses.

import { get, part, path, post, put, remove, workOut } from './api.js';
import { button, el, fill, name, number, percent, plural } from './dom.js';

/** Asks, and does. `fields`: `{ id, label, hint, required, value, options }`. `preview()` answers
 *  nodes; `act(values)` does it. Resolves to whether it was done. */
export function confirm({ title, subject, text, preview, fields, verb, danger, act }) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    let done = false;
    const shownPreview = el('div', { class: 'preview', role: 'status' }, 'Working out what would move …');
    const problem = el('p', { class: 'problem', role: 'alert', hidden: true });
    const inputs = fields.map((field) => input(field));
    const doIt = el('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, verb);
    const form = el('form', { on: { submit: (event) => { event.preventDefault(); run(); } } },
      el('h2', { id: 'dialog-title' }, title),
      subject ? el('p', { class: 'subject' }, subject) : null,
      text ? el('p', null, text) : null,
      preview ? shownPreview : null,
      inputs.map((each) => each.node),
      problem,
      el('div', { class: 'choices' }, button('Cancel', () => dialog.close()), doIt));
    const dialog = el('dialog', { 'aria-labelledby': 'dialog-title', on: { close: () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(done);
    } } }, form);

    async function run() {
      doIt.disabled = true;
      problem.hidden = true;
      try {
        await act(Object.fromEntries(inputs.map((each) => [each.id, each.value()])));
        done = true;
        dialog.close();
      } catch (why) {
        const doubt = why.outcome === 'unknown' ? ' It may have taken effect nevertheless.' : '';
        fill(problem, `Not done: ${why.message}.${doubt}`);
        problem.hidden = false;
        doIt.disabled = false;
      }
    }

    document.body.append(dialog);
    dialog.showModal();
    if (preview) {
      preview().then(
        (nodes) => fill(shownPreview, nodes),
        (why) => fill(shownPreview, `What would move is not known: ${why.message}.`),
      );
    }
  });
}

function input({ id, label, hint, required, value, options }) {
  const box = options
    ? el('select', { id: `field-${id}` }, options.map(([word, text]) => el('option', { value: word }, text)))
    : el('input', { id: `field-${id}`, type: 'text', autocomplete: 'off', required, maxlength: 500, 'aria-describedby': hint ? `hint-${id}` : null });
  if (value) box.value = value;
  const node = el('div', { class: 'field' },
    el('label', { for: `field-${id}` }, label, required ? null : el('span', { class: 'quiet' }, options ? null : ' (may be left out)')),
    box,
    hint ? el('small', { id: `hint-${id}`, class: 'quiet' }, hint) : null);
  return { id, node, value: () => box.value.trim() };
}

const REASON = { id: 'reason', label: 'Reason', required: true, hint: 'Kept with it, for whoever looks later.' };
const EXPIRES = { id: 'expires', label: 'For how long', hint: 'Such as 30m, 2h or 1d; without it until it is taken back.' };

function subject(instance) {
  return [name(instance.app), ' / ', name(instance.id)];
}

function of(instance) {
  return path`v1/apps/${instance.app}/instances/${instance.id}`;
}

/** What others take over when an instance takes part no more: its keys on the ring, its shards. */
async function departure(instance) {
  const lines = [];
  const ring = await orNull(workOut(path`v1/apps/${instance.app}/ring/simulate`, { leave: [instance.id] }), ['no-ring', 'invalid-leave']);
  if (ring) {
    const share = ring.workers.find((worker) => worker.id === instance.id)?.share_before ?? 0;
    lines.push(`Ring: its ${percent(share)} of the keys go to the ${plural(ring.workers.filter((w) => w.weight_after > 0).length, 'other owner')}; ${percent(ring.moved / ring.keys)} of all keys move.`);
  }
  const { shard_sets: sets } = await get('v1/shard-sets');
  for (const set of sets.filter((each) => each.workers === instance.app)) {
    const plan = await orNull(workOut(path`v1/shard-sets/${set.set}/plan`, { leave: [instance.id] }), ['invalid-leave', 'unknown-instance']);
    if (plan) {
      const moves = plan.moves.length + (plan.moves_left_off ?? 0);
      lines.push(['Shard set ', name(set.set), `: ${plural(moves, 'shard')} would go to other workers.`]);
    }
  }
  return lines;
}

async function orNull(answer, codes) {
  try {
    return await answer;
  } catch (why) {
    if (codes.includes(why.code)) return null;
    throw why;
  }
}

function list(lines, without) {
  return lines.length > 0 ? el('ul', null, lines.map((line) => el('li', null, line))) : without;
}

const NOTHING = 'It is on no ring and works on no shards: nothing else moves.';

/** An operator's word that an instance takes no part: it stays registered. */
function putOverride(instance, { state, ...words }) {
  return confirm({
    ...words,
    subject: subject(instance),
    preview: async () => list(await departure(instance), NOTHING),
    fields: [REASON, EXPIRES],
    act: ({ reason, expires }) => put(`${of(instance)}/override`, { state, reason, ...(expires && { expires }) }),
  });
}

export function drain(instance) {
  return putOverride(instance, {
    state: 'draining',
    title: 'Drain this instance',
    text: 'It stays registered. It leaves its ring at once, and hands its shards over one by one as it lets go of them.',
    verb: 'Drain',
  });
}

export function maintenance(instance) {
  return putOverride(instance, {
    state: 'maintenance',
    title: 'Put this instance into maintenance',
    text: 'It stays registered and takes no part until that is taken back, also if it restarts meanwhile.',
    verb: 'Maintenance',
  });
}

export function backInService(instance) {
  return confirm({
    title: 'Put this instance back into service',
    subject: subject(instance),
    text: `It is ${instance.state} by an operator's word. That word is taken back: it takes part again at once.`,
    fields: [],
    verb: 'Resume',
    act: () => remove(`${of(instance)}/override`),
  });
}

export function removeInstance(instance) {
  return confirm({
    title: 'Remove this instance',
    subject: subject(instance),
    text: 'It goes with its shard, in one revision. A process that still runs is told so at its next heartbeat and may register again: to keep it out, drain it or put it into maintenance.',
    preview: async () => list([...await departure(instance), ...await onItsSession(instance)], 'Only the instance and its shard go.'),
    fields: [REASON],
    verb: 'Remove',
    danger: true,
    act: ({ reason }) => remove(of(instance), { incarnation: instance.incarnation, reason }),
  });
}

async function onItsSession(instance) {
  const session = await orNull(get(path`v1/sessions/${instance.session}`), ['unknown-session']);
  const others = (session?.instances.length ?? 1) - 1;
  return others > 0 ? [`Its session carries ${plural(others, 'other instance')}; they stay.`] : [];
}

/** The buttons that go with an instance; `changed` is called when something was done. */
export function actions(instance, changed) {
  const act = (what) => async () => { if (await what(instance)) changed(); };
  const of = visibleName(instance);
  const overridden = ['draining', 'maintenance'].includes(instance.state);
  // What the buttons act on is in the element, so that a table sees when it is another life.
  return el('span', { class: 'actions', 'data-incarnation': instance.incarnation, 'data-state': instance.state },
    overridden
      ? button('Resume', act(backInService), { 'aria-label': `Put ${of} back into service`, title: 'Put back into service' })
      : button('Drain', act(drain), { 'aria-label': `Drain ${of}`, title: 'Keep it registered, give its work to others' }),
    instance.state === 'maintenance'
      ? null
      : button('Maintain', act(maintenance), { 'aria-label': `Put ${of} into maintenance`, title: 'Take it out until that is taken back' }),
    button('Remove', act(removeInstance), { class: 'danger', 'aria-label': `Remove ${of}`, title: 'Deregister it' }));
}

function visibleName(instance) {
  return instance.id.length > 60 ? `${instance.id.slice(0, 60)}…` : instance.id;
}

/** An operator's word about the brake of an app or of all (`app` null). */
export function brakeWord(app) {
  return confirm({
    title: app === null ? 'The brake of all apps' : 'The brake of an app',
    subject: app === null ? null : [name(app)],
    text: 'Release: who is silent is really gone, remove them at the ordinary rate. Hold: remove nobody who is silent.',
    fields: [
      { id: 'mode', label: 'What to do', options: [['hold', 'Hold'], ['release', 'Release']] },
      REASON,
      EXPIRES,
    ],
    verb: 'Say so',
    act: ({ mode, reason, expires }) => put('v1/cluster/brake', {
      scope: app === null ? 'all' : 'app', ...(app !== null && { app }), mode, reason, ...(expires && { expires }),
    }),
  });
}

export function clearBrakeWord(override) {
  return confirm({
    title: 'Leave it to the cluster again',
    text: `The word "${override.mode}" is taken back.`,
    fields: [],
    verb: 'Take it back',
    act: () => remove('v1/cluster/brake', override.scope === 'all' ? { scope: 'all' } : { app: override.app }),
  });
}

/** Takes shards away from whoever holds them, by their grants. */
export function takeAway(set, shard) {
  return confirm({
    title: 'Take this shard away from its holder',
    subject: [name(shard.shard), ', held by ', name(shard.holder)],
    text: `It goes to its next worker at once. Whoever held it may be at work on it still: only the grant (now ${number(shard.grant)}) tells the two apart.`,
    fields: [],
    verb: 'Take away',
    danger: true,
    act: async () => {
      const { results } = await post(`v1/shard-sets/${part(set)}/release`, { shards: [{ shard: shard.shard, grant: shard.grant }] });
      if (results[0].code) throw new Error(results[0].detail);
    },
  });
}
