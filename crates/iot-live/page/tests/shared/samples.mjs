// Devices and alerts as the service sends them, and a store that has some.

import { Store } from '../../store.js';

export const NOW = 1_780_000_000_000;
export const WHOLE = { isFirst: true, isLast: true };

export function device(name, value = 20, { timestamp = NOW, location = { building: 'North', floor: '1', room: '101' }, tenant = 'acme' } = {}) {
  const readings = { temperature: { value, unit: 'celsius', quality: 'good', timestamp } };
  return { tenant, project: 'plant', device: name, location, seq: 1, timestamp, readings };
}

export function alert(id, state = 'raised', more = {}) {
  return { id, tenant: 'acme', project: 'plant', device: 'd1', location: null, sensor: 'temperature', kind: 'threshold', level: 'critical', state, value: 61, limit: 50, timestamp: NOW, raised_at: NOW, count: 1, ...more };
}

export function opened(devices, alerts = []) {
  const store = new Store();
  store.connected({ server_time: NOW }, NOW);
  store.page('readings', { devices }, WHOLE, NOW);
  store.page('alerts', { alerts }, WHOLE, NOW);
  return store;
}
