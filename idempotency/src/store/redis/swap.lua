-- KEYS[1]: the key. ARGV: 1 mode, 2 header expected,
-- then for a put: 3 stamp and running mark, 4 lease, 5 keep (microseconds, -1 for none), 6 fresh, 7 the row.
-- The header: 32 hex digits of stamp, r or d, 20 digits of lease or dashes, 20 digits of creation.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local value = redis.call('GET', KEYS[1])
local met
if ARGV[1] == 'absent' then
  met = not value
elseif not value then
  met = false
elseif ARGV[1] == 'held' then
  met = string.sub(value, 1, 33) == ARGV[2]
else
  met = string.sub(value, 1, 53) == ARGV[2]
end
if not met then
  return {0, now, value}
end
if not ARGV[3] then
  -- Deleting nothing is a plain read of the clock: it is not "done".
  if not value then return {0, now, false} end
  redis.call('DEL', KEYS[1])
  return {1, now, false}
end
local lease = '--------------------'
if ARGV[4] ~= '-1' then lease = string.format('%020.0f', now + tonumber(ARGV[4])) end
local created
if value and ARGV[6] == '0' then
  created = string.sub(value, 54, 73)
else
  created = string.format('%020.0f', now)
end
if ARGV[5] == '-1' then
  redis.call('SET', KEYS[1], ARGV[3] .. lease .. created .. ARGV[7])
else
  redis.call('SET', KEYS[1], ARGV[3] .. lease .. created .. ARGV[7], 'PX', math.ceil(ARGV[5] / 1000))
end
return {1, now, false}
