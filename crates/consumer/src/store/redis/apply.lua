-- Takes one step of a partition as a whole or not at all.
--
-- KEYS  the partition's state (a hash), then the keys of sealed windows
-- ARGV  offset that must be stored ("" for none), offset to store, schema,
--       the schema before it, whose state is taken over, number of windows,
--       number of removed fields, then value and time to live (ms) of each
--       window, then fields and values of the state: first the removed ones,
--       with empty values
--
-- Returns 1 when the step is taken now or was taken before, else 0 and the
-- offset that is stored.
--
-- Redis does not roll a script back. So everything is checked first (HMGET fails
-- on a key of another type), and the order of writes makes a script that fails
-- half way harmless: windows are the same whenever they are written, so one that
-- is there too early is no error; live values, the offset that they belong to and
-- the log that it is of are one HSET, which Redis does or does not. Removed fields
-- become empty in it, which readers skip, and are deleted afterwards: it is no harm
-- if that fails.
local state = KEYS[1]
local from, to, schema, before = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local windows, removed = tonumber(ARGV[5]), tonumber(ARGV[6])

local first = 7 + 2 * windows
local held = redis.call('HMGET', state, 'offset', 'schema', 'topic_id')
local offset, written, id = held[1] or '', held[2] or schema, held[3] or ''
-- The id of the step's topic follows the removed fields.
local log = ARGV[first + 2 * removed + 1]
if id ~= '' and log ~= '' and id ~= log then
  return {0, offset}
end
if offset == to and from ~= to then
  return {1}
end
if offset ~= from or (written ~= schema and written ~= before) then
  return {0, offset}
end

for i = 1, windows do
  redis.call('SET', KEYS[1 + i], ARGV[5 + 2 * i], 'PX', ARGV[6 + 2 * i])
end
redis.call('HSET', state, 'offset', to, 'schema', schema, unpack(ARGV, first))
if removed > 0 then
  local fields = {}
  for i = 1, removed do
    fields[i] = ARGV[first + 2 * (i - 1)]
  end
  redis.call('HDEL', state, unpack(fields))
end
return {1}
