-- Sets the state of a partition aside, and begins it again in another log.
--
-- KEYS  the partition's state (a hash), where to keep it
-- ARGV  offset that must be stored, how long to keep it (ms), topic id and leader
--       epoch that must be stored, then the fields and values to begin with
--
-- Returns 1 when it is done, else 0 and the offset that is stored.
--
-- The rename is first: whatever fails after it, nothing is lost: the partition
-- has no state, and store.missing and kafka.from decide where it begins. The state
-- set aside may then not expire.
local state, aside = KEYS[1], KEYS[2]
local held = redis.call('HMGET', state, 'offset', 'topic_id', 'leader_epoch')
local offset = held[1] or ''
if offset ~= ARGV[1] or (held[2] or '') ~= ARGV[3] or (held[3] or '') ~= ARGV[4] then
  return {0, offset}
end
redis.call('RENAME', state, aside)
redis.call('PEXPIRE', aside, ARGV[2])
redis.call('HSET', state, unpack(ARGV, 5))
return {1}
