// The live side of a page: one watch with the narrow interest of what is open. It begins after the
// revision of what was read, so nothing is missed and no snapshot of everything is loaded; it goes on
// after its last whole revision when the connection breaks, and asks the page to read again when the
// node does not keep what came between.
//
// The stream is read by hand and not by an `EventSource`, since that does not tell why it was refused:
// `compacted` and `overloaded` want different things done.

import { address, lost, seen } from './api.js';

/** A watch says something at least each 10 s; beyond this it is taken for dead. Milliseconds. */
const SILENCE_MAX = 25_000;

/** See `soon`. Milliseconds. */
const REST_MAX = 3_000;

/** Times between tries, milliseconds. */
const RETRY_FIRST = 300;
const RETRY_MAX = 5_000;

/** How long a hidden page goes on watching; browsers allow few connections to one server. */
const HIDDEN_MAX = 30_000;

/** Events of one turn are told together, at most so many: a page reads again rather than count. */
const BATCH_MAX = 2_000;

/** Follows what `interest` (parameters of `/v1/watch`) names after `from`, until `signal` aborts.
 *  `onEvents` gets lists of events, `onReset` says that some were missed: it reads again, and returns
 *  the revision of what it read. */
export async function follow(interest, from, { signal, onEvents, onReset }) {
  let position = from;
  let pause = RETRY_FIRST;
  const told = (events, upto) => {
    pause = RETRY_FIRST;
    position = upto;
    if (events.length > 0) onEvents(events);
  };
  while (!signal.aborted) {
    await whileHidden(signal);
    const ended = await stream({ ...interest, from: position }, signal, told);
    if (signal.aborted) return;
    if (ended === 'compacted') {
      try {
        position = await onReset();
      } catch {
        // It cannot be read either just now; the next turn says the same again.
      }
    }
    await sleep(ended === 'hidden' ? 0 : pause, signal);
    pause = Math.min(pause * 2, RETRY_MAX);
  }
}

/** One connection. Returns why it ended. */
async function stream(parameters, signal, told) {
  const stop = new AbortController();
  const whole = AbortSignal.any([signal, stop.signal]);
  let silence = setTimeout(() => stop.abort('silent'), SILENCE_MAX);
  let hidden = null;
  const onVisibility = () => {
    clearTimeout(hidden);
    if (document.hidden) hidden = setTimeout(() => stop.abort('hidden'), HIDDEN_MAX);
  };
  document.addEventListener('visibilitychange', onVisibility);
  try {
    const response = await fetch(address('v1/watch', parameters), {
      headers: { Accept: 'application/x-ndjson' },
      cache: 'no-store',
      signal: whole,
    });
    seen();
    if (!response.ok) return response.status === 410 ? 'compacted' : 'refused';
    const reading = new Reading(told);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return reading.ended ?? 'cut';
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort('silent'), SILENCE_MAX);
      seen();
      reading.take(value);
    }
  } catch {
    if (stop.signal.reason === 'hidden') return 'hidden';
    if (!signal.aborted) lost();
    return 'cut';
  } finally {
    clearTimeout(silence);
    clearTimeout(hidden);
    document.removeEventListener('visibilitychange', onVisibility);
  }
}

/** Puts lines together, and events of one revision. */
class Reading {
  constructor(told) {
    this.told = told;
    this.rest = '';
    this.events = [];
    this.ended = null;
  }

  take(text) {
    const lines = (this.rest + text).split('\n');
    this.rest = lines.pop();
    let upto = null;
    let whole = 0;
    for (const line of lines) {
      const event = JSON.parse(line);
      switch (event.event) {
        case 'put':
        case 'delete':
          this.events.push(event);
          if (event.more) continue;
          break;
        case 'bookmark':
          break;
        default:
          this.ended = event.event;
          if (event.event === 'compacted') continue;
      }
      upto = event.revision;
      whole = this.events.length;
      if (whole > BATCH_MAX) {
        this.told(this.events.splice(0, whole), upto);
        whole = 0;
      }
    }
    // What belongs to a revision of which more comes waits for the rest of it.
    if (upto !== null) this.told(this.events.splice(0, whole), upto);
  }
}

function whileHidden(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener('visibilitychange', done);
      resolve();
    };
    document.addEventListener('visibilitychange', done);
    signal.addEventListener('abort', done, { once: true });
  });
}

export function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Calls `act` soon after it was asked for, once for all who ask meanwhile, never twice at a time, with
 *  a rest of `rest` milliseconds behind each, and longer (up to `REST_MAX`) where `act` took long: a
 *  page that looks at a hundred thousand instances is not to keep its node busy. */
export function soon(act, rest, signal) {
  let wanted = false;
  let running = false;
  const run = async () => {
    running = true;
    while (wanted && !signal.aborted) {
      wanted = false;
      const begun = Date.now();
      try {
        await act();
      } catch {
        // The page shows that its node does not answer; the next change or turn tries again.
      }
      await sleep(Math.max(rest, Math.min(REST_MAX, 2 * (Date.now() - begun))), signal);
    }
    running = false;
  };
  return () => {
    wanted = true;
    if (!running && !signal.aborted) run();
  };
}

/** Calls `act` each `milliseconds` while the page is looked at. */
export function every(milliseconds, act, signal) {
  const timer = setInterval(() => { if (!document.hidden) act(); }, milliseconds);
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
}
