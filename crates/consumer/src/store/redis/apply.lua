-- Takes one step of a partition as a whole or not at all.
--
-- KEYS  the partition's state (a hash), then the keys of sealed windows
-- ARGV  offset that must be stored ("" for none), offset to store, schema,
--       the schema before it, whose state is taken over, number of windows,
--       then value and time to live (ms) of each window, then fields and values
--       of the state
--
-- Returns 1 when the step is taken now or was taken before, else 0 and the
-- offset that is stored.
--
-- Redis does not roll a script back. So everything is checked first (HMGET fails
-- on a key of another type), and the order of writes makes a script that fails
-- half way harmless: windows are the same whenever they are written, so one that
-- is there too early is no error; live values, the offset that they belong to and
-- the log that it is of are one HSET, which Redis does or does not.
local state = KEYS[1]
local from, to, schema, before = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local windows = tonumber(ARGV[5])

local held = redis.call('HMGET', state, 'offset', 'schema')
local offset, written = held[1] or '', held[2] or schema
if offset == to and from ~= to then
  return {1}
end
if offset ~= from or (written ~= schema and written ~= before) then
  return {0, offset}
end

for i = 1, windows do
  redis.call('SET', KEYS[1 + i], ARGV[4 + 2 * i], 'PX', ARGV[5 + 2 * i])
end
redis.call('HSET', state, 'offset', to, 'schema', schema, unpack(ARGV, 6 + 2 * windows))
return {1}
