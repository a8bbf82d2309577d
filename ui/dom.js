// Elements, and how values are written for people. Everything that is shown goes through `el` and
// `svg`, which make text nodes only: no name that anybody registered can become markup.

const SVG_NAMESPACE = 'http://www.w3.org/2000/svg';

/** An element. `props`: attributes by their names; `on` holds listeners; false and null are left out. */
export function el(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

/** The same for the pictures. */
export function svg(tag, props, ...children) {
  return build(document.createElementNS(SVG_NAMESPACE, tag), props, children);
}

function build(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (name === 'vars') {
      // Custom properties: a style attribute would be stopped by the content security policy.
      for (const [key, to] of Object.entries(value)) node.style.setProperty(key, String(to));
    } else if (name === 'value' || name === 'checked') {
      node[name] = value;
    } else {
      node.setAttribute(name, value === true ? '' : String(value));
    }
  }
  append(node, children);
  return node;
}

/** Adds nodes and texts; lists are flattened, null and false are left out. */
export function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Puts other children into an element. */
export function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

/** As `fill`, but only if `state` is not what is shown already: focus and selection stay. */
export function fillIfChanged(node, state, make) {
  const text = JSON.stringify(state);
  if (node.shownState === text) return;
  node.shownState = text;
  fill(node, make());
}

// Control characters, and those that change the direction of what follows or cannot be seen.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\u{e0000}-\u{e0fff}]/gu;

function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
}

/** Text with what cannot be seen written out, for titles and other plain places. */
export function visible(text) {
  return String(text).replace(UNSEEN, (character) => `[${codePoint(character)}]`);
}

/** A name that somebody chose: kept apart from the direction of what is around it, cut by the
 *  style sheet if it is long, whole in its title, and with marks in place of what cannot be seen. */
export function name(text, { class: kind, ...props } = {}) {
  const whole = String(text);
  const parts = [];
  let end = 0;
  for (const match of whole.matchAll(UNSEEN)) {
    if (match.index > end) parts.push(whole.slice(end, match.index));
    parts.push(el('span', { class: 'unseen' }, codePoint(match[0])));
    end = match.index + match[0].length;
  }
  parts.push(whole.slice(end));
  return el('bdi', { class: kind ? `name ${kind}` : 'name', title: visible(whole), ...props }, parts);
}

/** A link within the dashboard; `to` is made by `route`. */
export function link(to, ...children) {
  return el('a', { href: to }, children);
}

/** The address of a page: `route('apps', app)`. */
export function route(...parts) {
  return `#/${parts.map(encodeURIComponent).join('/')}`;
}

/** The page of the instance that a shard is. */
export function shardRoute(shard) {
  const [app, ...id] = shard.split('/');
  return route('apps', app.replaceAll('%2F', '/').replaceAll('%25', '%'), id.join('/'));
}

const DIGITS = new Intl.NumberFormat('en');

export function number(value) {
  return value === null || value === undefined ? '–' : DIGITS.format(value);
}

/** The node's own words with the numbers in them as this page writes numbers. Not for names and addresses. */
export function grouped(text) {
  return visible(text).replace(/(?<![\w.:-])\d{4,}(?!\w|[.:-]\w)/g, (digits) => number(BigInt(digits)));
}

/** A part of one, as percent. */
export function percent(part) {
  return `${(part * 100).toFixed(part < 0.0995 ? 2 : 1)} %`;
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

function two(value) {
  return String(value).padStart(2, '0');
}

/** The time of day here, with the day where that is not today. */
export function clock(moment) {
  const at = moment instanceof Date ? moment : new Date(moment);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return at.toDateString() === new Date().toDateString() ? time : `${day} ${time}`;
}

/** A moment, with its full form in the title. */
export function time(moment) {
  if (!moment) return el('span', { class: 'quiet' }, '–');
  return el('time', { datetime: moment, title: moment }, clock(moment));
}

/** How long ago, roughly. A browser's clock may be behind: then it is now. */
export function ago(moment) {
  if (!moment) return el('span', { class: 'quiet' }, '–');
  const seconds = Math.max(0, (Date.now() - new Date(moment).getTime()) / 1000);
  return el('time', { datetime: moment, title: moment }, `${span(seconds)} ago`);
}

export function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export const STATES = ['up', 'suspect', 'draining', 'maintenance'];

/** A state with its mark: a shape and a word, not a colour alone. */
export function state(word) {
  return el('span', { class: `state state-${STATES.includes(word) ? word : 'other'}` }, visible(word));
}

/** A thing that stands for a number: a caption over it. */
export function figure(caption, value, more) {
  return el('div', { class: 'figure' }, [
    el('dt', null, caption),
    el('dd', null, value, more ? el('small', null, more) : null),
  ]);
}

/** A box with a heading. `side` stands at its right. */
export function card(title, side, ...children) {
  const head = el('header', null, el('h2', null, title), el('div', { class: 'side' }, side));
  return el('section', { class: 'card' }, head, children);
}

export function empty(...what) {
  return el('p', { class: 'empty' }, what);
}

export function button(text, act, props) {
  return el('button', { type: 'button', ...props, on: { click: act } }, text);
}
