// Lines as SVG path data. Pure: numbers in, text out. Values may be of any size, up to the
// largest number: differences are taken of halves, because 1e308 - -1e308 is infinite.

const round = (number) => Math.round(number * 10) / 10;
// In pixels: SVG knows no larger coordinates than a Float32 has, and nobody sees these.
const FURTHEST = 1e5;
const finite = (number) => Math.max(-Number.MAX_VALUE, Math.min(Number.MAX_VALUE, number));

/** Smallest and largest finite value; null when there is none. */
export function extent(points, stride = 2, offset = 1) {
  let low = Infinity;
  let high = -Infinity;
  for (let at = offset; at < points.length; at += stride) {
    if (!Number.isFinite(points[at])) continue;
    low = Math.min(low, points[at]);
    high = Math.max(high, points[at]);
  }
  return low <= high ? [low, high] : null;
}

/** Widens a range so that a quiet series is drawn quiet and not as full-scale noise. */
export function padded([low, high], share = 0.02) {
  const least = Math.max(Math.abs(low), Math.abs(high)) * share || 1;
  const missing = Math.max(0, least - (high - low)) / 2;
  return [finite(low - missing), finite(high + missing)];
}

/** The values that a chart shows: all of them with some air, and the limit if it is near them; null without values. */
export function valueRange(values, limit) {
  const range = extent(values, 1, 0);
  if (!range) return null;
  const [low, high] = padded(range);
  // A limit far away would press the line flat; it is drawn where it matters.
  const isNear = limit !== null && limit > low - (high - low) && limit < high + (high - low);
  const wide = isNear ? [Math.min(low, limit), Math.max(high, limit)] : [low, high];
  const air = (wide[1] / 2 - wide[0] / 2) * 0.12;
  return [finite(wide[0] - air), finite(wide[1] + air)];
}

/** A linear scale from a range of values to a range of pixels, as far as a drawing can have coordinates. */
export function scale([from, to], [start, end]) {
  const half = to / 2 - from / 2;
  // Not multiplied by its inverse, which is 0 or infinite for extreme ranges.
  const share = (value) => (half === 0 ? 0 : (value / 2 - from / 2) / half);
  return (value) => Math.max(-FURTHEST, Math.min(FURTHEST, start + (end - start) * share(value)));
}

/** A line through flat `[x, y, x, y...]` data; what is not a finite number lifts the pen. */
export function linePath(points, x, y, steps = false) {
  let path = '';
  let drawing = false;
  let last = 0;
  for (let at = 0; at < points.length; at += 2) {
    if (!Number.isFinite(points[at + 1])) {
      drawing = false;
      continue;
    }
    const left = round(x(points[at]));
    const top = round(y(points[at + 1]));
    if (drawing && steps) path += `L${left} ${last}`;
    path += `${drawing ? 'L' : 'M'}${left} ${top}`;
    drawing = true;
    last = top;
  }
  return path;
}

/** A sparkline's path in a box, or '' for fewer than two points. */
export function sparkline(points, width, height, { steps = false, share = 0.02 } = {}) {
  const range = points.length >= 4 ? extent(points) : null;
  if (!range) return '';
  const x = scale([points[0], points[points.length - 2]], [1, width - 1]);
  const y = scale(steps ? [0, 1] : padded(range, share), [height - 2, 2]);
  return linePath(points, x, y, steps);
}

/** Round numbers that cover a range: about `count` of them. */
export function ticks([low, high], count) {
  const rough = high / count - low / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  if (!(rough > 0) || !(power > 0) || !Number.isFinite(power)) return [low];
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  // Counted, because a step may be too small to change a large number.
  const first = Math.ceil(low / step);
  const last = Math.floor(high / step + 1e-6);
  const marks = [];
  for (let at = 0; at <= 2 * count && first + at <= last; at += 1) {
    const mark = (first + at) * step;
    if (Number.isFinite(mark) && mark !== marks.at(-1)) marks.push(Math.abs(mark) < step / 1e6 ? 0 : mark);
  }
  return marks;
}
