-- Looks at several records, for a sweep of verdicts (R2): one fence, and every value as it is in the same step.
-- KEYS: the records. ARGV: run_id, the bytes after which further records wait for the next call, the elements above which a
-- collection is read in parts, then for each key its shape ('d' document, 'c' collection, else a log).
-- Answers {clock, epoch, time in us, heartbeat, {state, marked, type, expiry, value parts} for each key}, with the state
-- 'value', 'absent', 'later' (the call was full), 'parts' (to be read in parts) or 'module'.
local budget, elements_max, spent = tonumber(ARGV[2]), tonumber(ARGV[3]), 0
local answer = { redis.call('GET', 'parallax:clock') or '0', epoch_of(ARGV[1]) or '', string.format('%.0f', micros()),
  redis.call('HGET', 'parallax:postgres', 'beat') or '0' }

local function weigh(parts)
  for _, part in ipairs(parts) do
    if type(part) == 'table' then weigh(part) else spent = spent + #part end
  end
end

local lengths = { hash = 'HLEN', set = 'SCARD', zset = 'ZCARD' }

local function look(key, shape)
  local marked, kind = redis.call('HEXISTS', 'parallax:outbox', key), redis.call('TYPE', key).ok
  if kind == 'none' then return { 'absent', marked, kind, '-1', {} } end
  local expires = string.format('%.0f', redis.call('PEXPIRETIME', key))
  if shape ~= 'd' and shape ~= 'c' then return { 'parts', marked, kind, expires, {} } end
  if shape == 'c' and lengths[kind] and redis.call(lengths[kind], key) > elements_max then
    return { 'parts', marked, kind, expires, {} }
  end
  if spent > budget then return { 'later', marked, kind, expires, {} } end
  local parts = read(key, kind)
  if not parts then return { 'module', marked, kind, expires, {} } end
  weigh(parts)
  return { 'value', marked, kind, expires, parts }
end

for i, key in ipairs(KEYS) do answer[4 + i] = look(key, ARGV[3 + i]) end
return answer
