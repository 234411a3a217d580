// The large chart of one sensor: a bar from minimum to maximum and a mark at the
// mean for each window, the readings as they came over it, and the alert limit.

import { extent, linePath, padded, scale, ticks } from './chart.js';
import { svg } from './dom.js';
import { formatClock, formatLimit, formatNumber, formatReading } from './format.js';

const HEIGHT = 220;
const MARGIN = { left: 52, right: 10, top: 10, bottom: 22 };

function valueRange(points, windows, limit) {
  const values = [...windows.flatMap(({ min, max }) => [min, max]), ...points.filter((_, at) => at % 2 === 1)];
  const range = extent(values, 1, 0);
  if (!range) return null;
  const [low, high] = padded(range);
  // A limit far away would press the line flat; it is drawn where it matters.
  const isNear = limit !== null && limit > low - (high - low) && limit < high + (high - low);
  const wide = isNear ? [Math.min(low, limit), Math.max(high, limit)] : [low, high];
  const air = (wide[1] - wide[0]) * 0.06;
  return [wide[0] - air, wide[1] + air];
}

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

function axes(times, range, x, y, unit, width) {
  const parts = [];
  const marks = ticks(range, 4).filter((mark) => mark >= range[0] && mark <= range[1]);
  const digits = marks.every(Number.isInteger) ? 0 : undefined;
  for (const mark of unit === 'state' ? [0, 1] : marks) {
    const label = unit === 'state' ? formatReading(mark, unit) : formatNumber(mark, digits);
    parts.push(svg('line', 'grid', { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(mark), y2: y(mark) }));
    parts.push(svg('text', 'tick', { x: MARGIN.left - 8, y: y(mark) + 4, 'text-anchor': 'end' }, label));
  }
  for (const { mark, withSeconds } of timeMarks(times)) {
    const at = x(mark);
    if (at < MARGIN.left + 20 || at > width - MARGIN.right - 20) continue;
    parts.push(svg('text', 'tick', { x: at, y: HEIGHT - 5, 'text-anchor': 'middle' }, formatClock(mark, withSeconds)));
  }
  return parts;
}

function windowBars(windows, times, x, y) {
  return windows.flatMap(({ start, end, min, max, mean }) => {
    const left = x(Math.max(start, times[0])) + 1;
    const right = x(Math.min(end, times[1])) - 1;
    if (right <= left) return [];
    const top = y(max);
    const bar = svg('rect', 'window-bar', { x: left, y: top, width: right - left, height: Math.max(1, y(min) - top) });
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
  const range = unit === 'state' ? [-0.15, 1.15] : valueRange(recent, visible, limit);
  element.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  if (!range) return element.replaceChildren();
  const x = scale(times, [MARGIN.left, width - MARGIN.right]);
  const y = scale(range, [HEIGHT - MARGIN.bottom, MARGIN.top]);
  const parts = axes(times, range, x, y, unit, width);
  parts.push(...windowBars(visible, times, x, y));
  if (limit !== null && limit >= range[0] && limit <= range[1]) {
    parts.push(svg('line', 'limit', { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(limit), y2: y(limit) }));
    parts.push(svg('text', 'limit-label', { x: width - MARGIN.right, y: y(limit) - 5, 'text-anchor': 'end' }, `limit ${formatLimit(limit, unit)}`));
  }
  parts.push(svg('path', 'line', { d: linePath(recent, x, y, unit === 'state') }));
  if (recent.length >= 2 && !Number.isNaN(recent.at(-1))) {
    parts.push(svg('circle', 'newest', { cx: x(Math.min(now, recent.at(-2))), cy: y(recent.at(-1)), r: 3 }));
  }
  return element.replaceChildren(...parts);
}
