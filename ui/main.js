// The frame around the pages: which page is open, the line at the top, the banner, the keys.

import { node as connection, probe } from './api.js';
import { cluster, health, keepAsking, leader, leaderless, onCluster, retell, silentFor } from './cluster.js';
import { button, clock, el, fill, fillIfChanged, name, number, visible } from './dom.js';
import { every, sleep, soon } from './live.js';
import * as app from './pages/app.js';
import * as apps from './pages/apps.js';
import * as clusterPage from './pages/cluster.js';
import * as events from './pages/events.js';
import * as instance from './pages/instance.js';
import * as overview from './pages/overview.js';
import * as ring from './pages/ring.js';
import * as scaling from './pages/scaling.js';
import * as shards from './pages/shards.js';

/** Pages by the first part of the address and by how many parts follow it. */
const PAGES = {
  '': [overview],
  apps: [apps, app, instance],
  ring: [ring, ring],
  shards: [shards, shards],
  scaling: [scaling, scaling],
  events: [events],
  cluster: [clusterPage],
};

const NAV = [
  ['', 'Overview'],
  ['apps', 'Apps'],
  ['ring', 'Ring'],
  ['shards', 'Shards'],
  ['scaling', 'Scaling'],
  ['events', 'Events'],
  ['cluster', 'Cluster'],
];

/** When to try again to open what could not be, milliseconds. */
const AGAIN = 2_000;

/** How often to ask whether there is a leader again, milliseconds. */
const PROBE_EVERY = 2_000;

const byId = (id) => document.getElementById(id);
const main = byId('main');
const forever = new AbortController().signal;

/** Ends all that the open page has under way. */
let open = new AbortController();

/** The address after `#/`: its parts, and its query. */
function here() {
  const [parts, search] = location.hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const decoded = parts.split('/').map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { parts: decoded, query: new URLSearchParams(search ?? '') };
}

async function show() {
  // The skip link and the like.
  if (location.hash && !location.hash.startsWith('#/')) return;
  open.abort();
  open = new AbortController();
  const { signal } = open;
  const { parts, query } = here();
  const [first, ...rest] = parts;
  const page = PAGES[first]?.[rest.length];
  markNav(first);
  if (!page) {
    document.title = 'Not found · Roster';
    fill(main, el('h1', null, 'There is no such page'), el('p', null, 'The address may be mistyped; the pages are listed beside.'));
    return;
  }
  const titles = page.title(rest);
  document.title = `${titles.map(visible).reverse().join(' · ')} · Roster`;
  const heading = el('h1', null, crumbs(first, titles, rest));
  const body = el('div', { class: 'body', 'aria-busy': 'true' }, el('p', { class: 'loading' }, 'Loading …'));
  fill(main, heading, body);
  window.scrollTo(0, 0);
  await openPage(page, { parts: rest, query, signal, root: body, heading });
}

/** Opens a page, and again as long as what it needs cannot be had. */
async function openPage(page, context) {
  const { signal, root } = context;
  try {
    await page.open(context);
  } catch (why) {
    if (signal.aborted) return;
    if (why.code === undefined) console.error(why);
    root.removeAttribute('aria-busy');
    fill(root, problem(why));
    // What is not there may come.
    if (why.code === 'no-answer' || why.retryable || why.status === 404) {
      await sleep(AGAIN, signal);
      if (!signal.aborted) openPage(page, context);
    }
  }
  root.removeAttribute('aria-busy');
}

function problem(why) {
  const text = why.code === undefined ? `This page failed: ${why.message}` : why.message;
  return el('div', { class: 'problem', role: 'alert' },
    el('p', null, visible(text), why.status === 404 ? '. This page opens by itself as soon as there is.' : '.'),
    button('Try again', show));
}

/** The way here: `Apps / pay / 10.0.0.1:8719`. */
function crumbs(first, titles, rest) {
  if (rest.length === 0) return titles[0];
  return titles.flatMap((title, at) => {
    const text = at === 0 ? title : name(title);
    const to = `#/${[first, ...rest.slice(0, at)].map(encodeURIComponent).join('/')}`;
    const shown = at < titles.length - 1 ? el('a', { href: to }, text) : text;
    return at > 0 ? [el('span', { class: 'quiet' }, ' / '), shown] : [shown];
  });
}

function markNav(current) {
  fill(byId('nav'), NAV.map(([to, text]) => el('a', { href: `#/${to}`, 'aria-current': to === current ? 'page' : null }, text)));
}

function showHealth() {
  const { word, level, why } = health();
  const now = cluster.now;
  const silent = silentFor() !== null;
  const state = [word, level, why, leader(), now?.term, cluster.self, silent];
  fillIfChanged(byId('health'), state, () => [
    el('a', { class: `health health-${level}`, href: '#/cluster', title: visible(why) }, word),
    // Counted on without being read aloud each second.
    silent ? el('span', { class: 'quiet since', 'aria-hidden': 'true' }) : null,
    now && !silent ? el('span', { class: 'quiet wide-only' }, whoLeads()) : null,
  ]);
  const since = document.querySelector('#health .since');
  if (since) since.textContent = `for ${silentFor()} s`;
}

function whoLeads() {
  const here = cluster.self ? `this is node ${cluster.self}, ` : '';
  return leader() ? `${here}leader is node ${leader()} in term ${number(cluster.now.term)}` : `${here}no leader`;
}

function showBanner() {
  const banner = byId('banner');
  const { lostSince, lastSeen, stale } = connection;
  const now = cluster.now;
  const headless = now !== null && !leader();
  banner.hidden = !lostSince && !stale && !headless;
  const others = now?.nodes.map((each) => ({ id: each.id, api: each.api })) ?? [];
  fillIfChanged(banner, [lostSince, stale, headless && leaderless(), others, location.hash], () => {
    if (lostSince) {
      const seen = lastSeen ? `last seen ${clock(lastSeen)}` : 'never seen';
      return [el('b', null, 'Connection lost'), `, retrying; ${seen}. What is shown is from then.`, samePageOn(others)];
    }
    if (headless) return [el('b', null, 'No leader'), `: ${leaderless()}.`];
    if (stale) return [el('b', null, 'Not up to date'), ': this node cannot answer for the cluster just now, so what is shown may be old.'];
    return [];
  });
}

function samePageOn(others) {
  const links = others.map(({ id, api }) => elsewhere(id, api)).filter(Boolean);
  return links.length > 0 ? [' The same page on ', links.flatMap((each, at) => (at > 0 ? [', ', each] : [each])), '.'] : null;
}

/** This page on another node. What nodes call themselves is not trusted to be an address. */
function elsewhere(id, api) {
  let base;
  try {
    base = new URL(`${location.protocol}//${api}/ui/`);
  } catch {
    return null;
  }
  if (base.host === location.host || base.pathname !== '/ui/') return null;
  return el('a', { href: `${base}${location.hash}` }, `node ${id} (${base.host})`);
}

const THEMES = { auto: 'Auto', light: 'Light', dark: 'Dark' };

function keptTheme() {
  try {
    const kept = localStorage.getItem('roster-theme');
    return kept in THEMES ? kept : 'auto';
  } catch {
    return 'auto';
  }
}

function applyTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const turn = byId('theme');
  fill(turn, THEMES[theme]);
  turn.setAttribute('aria-label', `Colours: ${THEMES[theme]}. Change`);
  turn.title = 'Light, dark, or as the system has it';
}

function turnTheme() {
  const words = Object.keys(THEMES);
  const next = words[(words.indexOf(keptTheme()) + 1) % words.length];
  try {
    localStorage.setItem('roster-theme', next);
  } catch {
    // Nothing is kept then.
  }
  applyTheme(next);
}

/** `/` goes to the search of the page, else to the one at the top. */
function onKey(event) {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest('input, select, textarea, dialog')) return;
  event.preventDefault();
  const search = [...main.querySelectorAll('input[type=search]')].find((each) => each.checkVisibility()) ?? byId('search');
  search.focus();
  search.select();
}

function begin() {
  applyTheme(keptTheme());
  byId('theme').addEventListener('click', turnTheme);
  byId('skip').addEventListener('click', (event) => { event.preventDefault(); main.focus(); });
  byId('find').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = byId('search').value.trim();
    if (text) location.hash = `#/apps?find=${encodeURIComponent(text)}`;
  });
  document.addEventListener('keydown', onKey);
  window.addEventListener('hashchange', show);
  // A page that is kept for the way back would keep its watch, and browsers allow six connections.
  window.addEventListener('pagehide', () => open.abort());
  window.addEventListener('pageshow', (event) => { if (event.persisted) show(); });
  const refresh = () => { showHealth(); showBanner(); };
  onCluster(refresh, forever);
  connection.listeners.add(refresh);
  every(1_000, () => { retell(); refresh(); }, forever);
  // What was read while there was no leader grows newer by the watch; whether there is one again is
  // asked for.
  every(PROBE_EVERY, soon(async () => { if (connection.stale) await probe(forever); }, 0, forever), forever);
  keepAsking(forever);
  show();
  refresh();
}

begin();
