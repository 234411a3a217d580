// Lines as SVG path data. Pure: numbers in, text out.

const round = (number) => Math.round(number * 10) / 10;

/** Smallest and largest value; null when there is none. */
export function extent(points, stride = 2, offset = 1) {
  let low = Infinity;
  let high = -Infinity;
  for (let at = offset; at < points.length; at += stride) {
    if (Number.isNaN(points[at])) continue;
    low = Math.min(low, points[at]);
    high = Math.max(high, points[at]);
  }
  return low <= high ? [low, high] : null;
}

/** Widens a range so that a quiet series is drawn quiet and not as full-scale noise. */
export function padded([low, high], share = 0.02) {
  const least = Math.max(Math.abs(low), Math.abs(high)) * share || 1;
  const missing = Math.max(0, least - (high - low)) / 2;
  return [low - missing, high + missing];
}

/** A linear scale from a range of values to a range of pixels. */
export function scale([from, to], [start, end]) {
  const factor = to === from ? 0 : (end - start) / (to - from);
  return (value) => start + (value - from) * factor;
}

/** A line through flat `[x, y, x, y...]` data; NaN lifts the pen. */
export function linePath(points, x, y, steps = false) {
  let path = '';
  let drawing = false;
  let last = 0;
  for (let at = 0; at < points.length; at += 2) {
    if (Number.isNaN(points[at + 1])) {
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
  const rough = (high - low) / count;
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const marks = [];
  for (let mark = Math.ceil(low / step) * step; mark <= high + step / 1e6; mark += step) {
    marks.push(Math.abs(mark) < step / 1e6 ? 0 : mark);
  }
  return marks;
}
