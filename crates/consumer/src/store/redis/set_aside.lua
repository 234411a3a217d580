-- Sets the state of a partition aside, and begins it again in another log.
--
-- KEYS  the partition's state (a hash), where to keep it
-- ARGV  offset that must be stored, how long to keep it (ms), then the fields and
--       values to begin with
--
-- Returns 1 when it is done, else 0 and the offset that is stored.
--
-- The rename is first: whatever fails after it, nothing is lost, and the
-- partition has no state, so that it is built from the start of the log as well.
local state, aside = KEYS[1], KEYS[2]
local offset = redis.call('HGET', state, 'offset') or ''
if offset ~= ARGV[1] then
  return {0, offset}
end
redis.call('RENAME', state, aside)
redis.call('PEXPIRE', aside, ARGV[2])
redis.call('HSET', state, unpack(ARGV, 3))
return {1}
