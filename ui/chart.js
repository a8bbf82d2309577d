// Small pictures of numbers over time.

import { clock, el, number, svg } from './dom.js';

/** Of the window, as in the style sheet, pixels. */
const NARROW = 560;

/** A line without axes. `values`: oldest first, null where nothing is known. */
export function sparkline(values, label) {
  const width = 160;
  const height = 34;
  const known = values.filter((value) => value !== null);
  const top = Math.max(1, ...known);
  const at = (index) => (values.length < 2 ? width : (index / (values.length - 1)) * width);
  const points = values.flatMap((value, index) => (value === null ? [] : [`${at(index).toFixed(1)},${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`]));
  return svg('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    svg('polyline', { points: points.join(' ') }));
}

/** Between two lines of the axis: 1, 2 or 5 with noughts, so that there are five of them at most. */
function axisStep(most) {
  const size = 10 ** Math.floor(Math.log10(Math.max(1, most / 5)));
  return [1, 2, 5, 10].map((each) => each * size).find((step) => most / step <= 5);
}

/** Two or more step lines over time with an axis. `series`: `{ label, kind, points: [{ at, value }] }`. */
export function steps(series, from, to, label) {
  // Letters keep their size: a narrow window has a narrow picture.
  const [width, height, left, bottom, top] = [window.innerWidth < NARROW ? 340 : 720, 220, 44, 24, 10];
  const values = series.flatMap((each) => each.points.map((point) => point.value));
  const most = Math.max(2, ...values);
  const step = axisStep(most);
  const end = Math.ceil(most / step) * step;
  const x = (at) => left + ((Math.max(from, at) - from) / Math.max(1, to - from)) * (width - left - 8);
  const y = (value) => height - bottom - (value / end) * (height - bottom - top);
  const line = ({ points, kind }) => {
    const path = points.map(({ at, value }, index) => (index === 0 ? `M${x(at)} ${y(value)}` : `H${x(at)}V${y(value)}`)).join('');
    return svg('path', { class: `series series-${kind}`, d: points.length > 0 ? `${path}H${x(to)}` : '' });
  };
  const lines = Array.from({ length: end / step + 1 }, (_, index) => index * step);
  return el('figure', { class: 'chart' },
    svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label },
      lines.map((value) => [
        svg('line', { class: 'grid', x1: left, x2: width - 8, y1: y(value), y2: y(value) }),
        svg('text', { class: 'axis', x: left - 8, y: y(value) + 4, 'text-anchor': 'end' }, number(value)),
      ]),
      [0, 0.5, 1].map((part) => svg('text', { class: 'axis', x: left + part * (width - left - 8), y: height - 6, 'text-anchor': ['start', 'middle', 'end'][part * 2] }, clock(new Date(from + part * (to - from))))),
      series.map(line)),
    el('figcaption', { class: 'legend' }, series.map((each) => el('span', { class: `key key-${each.kind}` }, each.label))));
}
