// Text for people. Everything that comes from a device is untrusted: it passes
// through safeText and ends in textContent or an attribute, never in markup.

// Control characters, line separators and bidirectional overrides: they would
// let a device name rewrite the text around it.
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

const UNITS = new Map([
  ['celsius', { symbol: '°C', digits: 1 }],
  ['percent', { symbol: '%', digits: 1 }],
  ['hectopascal', { symbol: 'hPa', digits: 1 }],
  ['ampere', { symbol: 'A', digits: 2 }],
  ['volt', { symbol: 'V', digits: 1 }],
  ['watt', { symbol: 'W', digits: 0 }],
  ['lux', { symbol: 'lx', digits: 0 }],
  ['fahrenheit', { symbol: '°F', digits: 1 }],
  ['kelvin', { symbol: 'K', digits: 1 }],
]);

const SENSOR_UNITS = new Map([
  ['temperature', 'celsius'],
  ['humidity', 'percent'],
  ['pressure', 'hectopascal'],
  ['current', 'ampere'],
  ['switch', 'state'],
]);

/** The standard sensors in the order in which they are shown. */
export const STANDARD_SENSORS = [...SENSOR_UNITS.keys()];

const GROUPED = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const COMPACT = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 });

/** Text from outside, cut to `max` characters and without control characters. */
export function safeText(text, max = 120) {
  const whole = typeof text === 'string' ? text : String(text ?? '');
  const cut = whole.length > max ? `${whole.slice(0, max - 1)}…` : whole;
  return cut.replace(UNSAFE, '\ufffd');
}

/** The unit an alert's value is in: alerts don't carry one. */
export function usualUnit(sensor) {
  return SENSOR_UNITS.get(sensor) ?? null;
}

function plainNumber(value, digits) {
  const size = Math.abs(value);
  if (size >= 1e7 || (size > 0 && size < 1e-4)) return value.toExponential(2);
  if (digits !== undefined) return value.toFixed(digits);
  if (size >= 1000 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 100 ? 1 : 2);
}

/** A number with a true minus sign; `–` for what is not a number. */
export function formatNumber(value, digits) {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–';
  const text = plainNumber(value, digits);
  if (/^-0(\.0*)?$/.test(text)) return text.slice(1);
  return text.replace('-', '−');
}

/**
 * Labels of the marks of an axis. Where the usual notation is too long or the same for two marks,
 * they have as many digits as the marks need: `9.9e99`, `1e100`, `1.01e100`.
 */
export function axisLabels(marks) {
  const digits = marks.every(Number.isInteger) ? 0 : undefined;
  const usual = marks.map((mark) => formatNumber(mark, digits));
  const isPlain = usual.every((text) => text.length <= 8 && !text.includes('e'));
  if (isPlain && new Set(usual).size === usual.length) return usual;
  const isExact = (mark, places) => Math.abs(Number(mark.toExponential(places)) - mark) <= Math.abs(mark) * 1e-9;
  let places = 0;
  while (places < 9 && !marks.every((mark) => isExact(mark, places))) places += 1;
  return marks.map((mark) => (mark === 0 ? '0' : shortExponent(mark.toExponential(places))));
}

// `1.50e+100` as `1.5e100`.
function shortExponent(text) {
  return text.replace(/\.?0*e\+?/, 'e').replaceAll('-', '−');
}

/** Value and unit symbol of a reading, as two texts: `['21.5', '°C']`. */
export function formatValue(value, unit) {
  if (unit === 'state' && (value === 0 || value === 1)) return [value === 1 ? 'on' : 'off', ''];
  const known = UNITS.get(unit);
  if (known) return [formatNumber(value, known.digits), known.symbol];
  return [formatNumber(value), unit && unit !== 'state' ? safeText(unit, 12) : ''];
}

/** Value and unit in one text: `21.5 °C`. */
export function formatReading(value, unit) {
  const [number, symbol] = formatValue(value, unit);
  return symbol ? `${number}\u202f${symbol}` : number;
}

/** A limit with its unit: exact, so `50 °C` and not `50.0 °C`. */
export function formatLimit(value, unit) {
  const [, symbol] = formatValue(value, unit);
  const number = Number.isInteger(value) ? formatNumber(value, 0) : formatNumber(value);
  return symbol ? `${number}\u202f${symbol}` : number;
}

/** A count: `12,345`, and `12.3M` from ten million on. */
export function formatCount(value) {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–';
  return Math.abs(value) < 1e7 ? GROUPED.format(value) : COMPACT.format(value);
}

/** A rate per second; one decimal where that tells something. */
export function formatRate(value) {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–';
  return value > 0 && value < 10 ? value.toFixed(1) : formatCount(Math.round(value));
}

/** A span of time in its largest unit: `40 s`, `3 min`, `2 h`, `5 d`. */
export function formatSpan(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 100) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`;
}

/** How long ago: `just now`, `40 s ago`. */
export function formatAgo(milliseconds) {
  return milliseconds < 2000 ? 'just now' : `${formatSpan(milliseconds)} ago`;
}

/** Local time of day, `14:03:59`; `–` for a time no calendar has. */
export function formatClock(milliseconds, withSeconds = true) {
  const date = new Date(milliseconds);
  if (Number.isNaN(date.getTime())) return '–';
  const two = (number) => String(number).padStart(2, '0');
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return withSeconds ? `${minutes}:${two(date.getSeconds())}` : minutes;
}

/** A sensor's name as a heading: `supply_voltage` becomes `Supply voltage`. */
export function sensorLabel(sensor) {
  const text = safeText(sensor, 40).replace(/[_-]+/g, ' ').trim();
  return text ? text[0].toUpperCase() + text.slice(1) : '–';
}

/** A part of a place: a bare `2` becomes `Floor 2`, a name stays as it is. */
export function placeLabel(kind, name) {
  const text = safeText(name, 60);
  return text.length <= 4 && /\d/.test(text) ? `${kind} ${text}` : text;
}
