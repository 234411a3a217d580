// The large chart of one sensor: a bar from minimum to maximum and a mark at the
// mean for each window, the readings as they came over it, and the alert limit.

import { linePath, scale, ticks, valueRange } from './chart.js';
import { svg } from './dom.js';
import { axisLabels, formatClock, formatLimit, formatReading } from './format.js';

const HEIGHT = 220;
const MARGIN = { left: 52, right: 10, top: 10, bottom: 22 };
// Of a label with digits of 11 px.
const DIGIT_WIDTH = 6.5;
const STATES = [0, 1];

function since(points, from) {
  let at = 0;
  while (at < points.length && points[at] < from) at += 2;
  return points.slice(at);
}

function timeMarks([from, to]) {
  const minutes = (to - from) / 60_000;
  const step = [0.25, 0.5, 1, 2, 5, 10, 15].find((candidate) => minutes / candidate <= 6) * 60_000;
  const marks = [];
  for (let mark = Math.ceil(from / step) * step; mark <= to; mark += step) marks.push({ mark, withSeconds: step < 60_000 });
  return marks;
}

/** The marks of the axis of values, with their labels. */
function valueMarks(range, unit) {
  if (unit === 'state') return STATES.map((mark) => ({ mark, label: formatReading(mark, unit) }));
  const marks = ticks(range, 4).filter((mark) => mark >= range[0] && mark <= range[1]);
  const labels = axisLabels(marks);
  return marks.map((mark, at) => ({ mark, label: labels[at] }));
}

function axes(times, marks, x, y, left, right) {
  const parts = [];
  for (const { mark, label } of marks) {
    parts.push(svg('line', 'grid', { x1: left, x2: right, y1: y(mark), y2: y(mark) }));
    parts.push(svg('text', 'tick', { x: left - 8, y: y(mark) + 4, 'text-anchor': 'end' }, label));
  }
  for (const { mark, withSeconds } of timeMarks(times)) {
    const at = x(mark);
    if (at < left + 20 || at > right - 20) continue;
    parts.push(svg('text', 'tick', { x: at, y: HEIGHT - 5, 'text-anchor': 'middle' }, formatClock(mark, withSeconds)));
  }
  return parts;
}

function windowBars(windows, times, x, y) {
  return windows.flatMap(({ start, end, min, max, mean }) => {
    if (!Number.isFinite(min) || !Number.isFinite(max)) return [];
    const left = x(Math.max(start, times[0])) + 1;
    const right = x(Math.min(end, times[1])) - 1;
    if (right <= left) return [];
    const top = y(max);
    const bar = svg('rect', 'window-bar', { x: left, y: top, width: right - left, height: Math.max(1, y(min) - top) });
    // The sum of very large values may be no number.
    if (!Number.isFinite(mean)) return [bar];
    return [bar, svg('line', 'window-mean', { x1: left, x2: right, y1: y(mean), y2: y(mean) })];
  });
}

/**
 * Draws into `element` (an SVG) the `span` milliseconds before `now`. `points`
 * is flat `[ms, value, ...]`, oldest first; `limit` is null when the sensor has
 * none. Times are the server's.
 */
export function drawChart(element, { points, windows, unit, limit, span, now }) {
  const width = Math.max(240, element.clientWidth);
  const times = [now - span, now];
  const visible = windows.filter(({ end }) => end > times[0]);
  const recent = since(points, times[0]);
  const values = [...visible.flatMap(({ min, max }) => [min, max]), ...recent.filter((_, at) => at % 2 === 1)];
  const range = unit === 'state' ? [-0.15, 1.15] : valueRange(values, limit);
  element.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  if (!range) return element.replaceChildren();
  const marks = valueMarks(range, unit);
  const longest = Math.max(0, ...marks.map(({ label }) => label.length));
  const [left, right] = [Math.max(MARGIN.left, 12 + DIGIT_WIDTH * longest), width - MARGIN.right];
  const x = scale(times, [left, right]);
  const y = scale(range, [HEIGHT - MARGIN.bottom, MARGIN.top]);
  const parts = axes(times, marks, x, y, left, right);
  parts.push(...windowBars(visible, times, x, y));
  if (limit !== null && limit >= range[0] && limit <= range[1]) {
    parts.push(svg('line', 'limit', { x1: left, x2: right, y1: y(limit), y2: y(limit) }));
    parts.push(svg('text', 'limit-label', { x: right, y: y(limit) - 5, 'text-anchor': 'end' }, `limit ${formatLimit(limit, unit)}`));
  }
  parts.push(svg('path', 'line', { d: linePath(recent, x, y, unit === 'state') }));
  if (recent.length >= 2 && Number.isFinite(recent.at(-1))) {
    parts.push(svg('circle', 'newest', { cx: x(Math.min(now, recent.at(-2))), cy: y(recent.at(-1)), r: 3 }));
  }
  return element.replaceChildren(...parts);
}
