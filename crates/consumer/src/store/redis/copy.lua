-- Copies the state of a partition as of one moment, for a reader that takes longer.
--
-- KEYS  the partition's state (a hash), where to copy it to
-- ARGV  how long to keep the copy (ms)
--
-- Returns 1 when it is done, else 0: there is no state.
if redis.call('COPY', KEYS[1], KEYS[2], 'REPLACE') == 0 then
  return 0
end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
