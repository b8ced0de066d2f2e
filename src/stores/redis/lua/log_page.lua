-- One page of a log with the ids of its entries, for a verdict (R2, G1-G3): fence and entries in one step.
-- KEYS: the record. ARGV: run_id, shape ('l' or 'r' list by the end that is pushed, 's' stream), the id after which to go on
-- ('' at the beginning), entries a page.
-- Answers {clock, epoch, time in us, heartbeat, marked, type, id of the oldest entry, '1' when nothing follows, {id, entry}
-- for each entry, oldest first}.
local key, shape, after, count = KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local kind = redis.call('TYPE', key).ok
local answer = { redis.call('GET', 'parallax:clock') or '0', epoch_of(ARGV[1]) or '', string.format('%.0f', micros()),
  redis.call('HGET', 'parallax:postgres', 'beat') or '0', redis.call('HEXISTS', 'parallax:outbox', key), kind, '', '1', {} }
if kind == 'stream' and shape == 's' then
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local entries = redis.call('XRANGE', key, after == '' and '-' or '(' .. after, '+', 'COUNT', count)
  answer[7], answer[8], answer[9] = oldest and oldest[1] or '', #entries < count and '1' or '0', entries
elseif kind == 'list' and shape ~= 's' then
  local length = redis.call('LLEN', key)
  local counter = tonumber(redis.call('HGET', 'parallax:log:' .. key, 'counter') or tostring(length))
  local first = math.max(counter - length + 1, after == '' and 0 or tonumber(after) + 1)
  local last = math.min(counter, first + count - 1)
  local parts, entries = {}, {}
  if first <= last then
    if shape == 'l' then parts = redis.call('LRANGE', key, counter - last, counter - first)
    else parts = redis.call('LRANGE', key, length - 1 - (counter - first), length - 1 - (counter - last)) end
  end
  for id = first, last do
    local at = shape == 'l' and last - id + 1 or id - first + 1
    entries[#entries + 1] = { string.format('%020.0f', id), parts[at] }
  end
  answer[7], answer[8], answer[9] = string.format('%020.0f', counter - length + 1), last >= counter and '1' or '0', entries
end
return answer
