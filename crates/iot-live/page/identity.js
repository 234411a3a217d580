// What makes two entries the same device.

/** The identity of a device as one string; lengths keep it unambiguous. */
export function deviceKey({ tenant, project, device }) {
  return `${tenant.length}.${project.length}.${tenant}/${project}/${device}`;
}

/**
 * Where the API has a device. Named in the query, because browsers remove `.` and `..` from paths, however they are
 * written.
 */
export function deviceAddress({ tenant, project, device }) {
  return `api/v1/device?${new URLSearchParams({ tenant, project, device })}`;
}

/** Whether something from outside names a device. */
export function isIdentity(entry) {
  return (
    entry !== null && typeof entry === 'object' &&
    typeof entry.tenant === 'string' && typeof entry.project === 'string' && typeof entry.device === 'string'
  );
}
