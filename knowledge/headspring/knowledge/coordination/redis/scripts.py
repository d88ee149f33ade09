"""What Redis runs as one step, in Lua, on its own clock. Each does what `memory.py` does."""

from __future__ import annotations

ACQUIRE = """
local held = redis.call('GET', KEYS[1])
if held then
  local owner, token = string.match(held, '^(.*):(%d+)$')
  if owner == ARGV[1] then return token end  -- the answer to the same question got lost
  return false
end
local time = redis.call('TIME')
local token = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, time[1] * 1000000 + time[2])
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. text, 'PX', ARGV[2])
return text
"""
"""Keys: the lock, its last token. Arguments: owner, milliseconds of the lease, milliseconds the token is kept.

The token is the server's time in microseconds, or one more than the last: so it grows also after the server lost
its data, unless its clock was set back too."""

RENEW = """
local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^(.*):%d+$') == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""
"""Key: the lock. Arguments: owner, milliseconds."""

RELEASE = """
local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^(.*):%d+$') == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""
"""Key: the lock. Argument: owner."""

ALLOW = """
local limit, slice, cost, slices = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local current = math.floor(now / slice)
local used, numbers, total = {}, {}, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local number = tonumber(all[i])
  if number < current - slices then
    redis.call('HDEL', KEYS[1], all[i])
  else
    used[number] = tonumber(all[i + 1])
    numbers[#numbers + 1] = number
    total = total + used[number]
  end
end
local wanted = math.max(1, cost)
if total + wanted <= limit then
  if cost > 0 then
    redis.call('HINCRBY', KEYS[1], string.format('%.0f', current), cost)
    redis.call('PEXPIRE', KEYS[1], math.ceil(slice * (slices + 1) / 1000))
  end
  return {1, limit - total - cost, 0}
end
table.sort(numbers)
local left, retry = total, 0
for _, number in ipairs(numbers) do
  left = left - used[number]
  retry = (number + 1 + slices) * slice - now
  if left + wanted <= limit then break end
end
return {0, math.max(0, limit - total), math.max(0, retry)}
"""
"""Key: use by slice. Arguments: limit, microseconds of a slice, cost, slices a window. Answers whether it is allowed,
what remains, and after how many microseconds to come again."""

BEGIN = """
local held = redis.call('GET', KEYS[1])
if held then return held == ARGV[1] and 1 or 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
"""Key: the cool-down. Arguments: who asks, milliseconds."""
