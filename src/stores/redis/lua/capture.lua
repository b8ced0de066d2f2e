-- Reads records with a version, as they are now (C1-C3, G1-G3).
-- KEYS: the records. ARGV: run_id, '1' when only marked records are wanted (drain) or '0' for present ones (backfill),
-- the bytes after which further records wait for the next call, the largest record in bytes, then for each key its
-- shape ('d' document, 'c' collection, 'l' or 'r' list log by the end that is pushed, 's' stream log) and, for a stream
-- in a backfill, the id after which to go on.
-- Answers {version, epoch, time in us, heartbeat of Postgres, {state, token, ...} for each key}.
local wants_marked, budget, largest = ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local epoch, reason = epoch_of(ARGV[1])
if not epoch then return redis.error_reply(reason) end
local now, spent, elements_max, entries_max = micros(), 0, 512, 500
local answer = { next_version(now), epoch, string.format('%.0f', now), redis.call('HGET', 'parallax:postgres', 'beat') or '0' }

local function weigh(parts)
  for _, part in ipairs(parts) do
    if type(part) == 'table' then weigh(part) else spent = spent + #part end
  end
end

local function touched(key, kind, companion)
  local names, list = redis.call('HSCAN', companion, 0, 'COUNT', elements_max)[2], {}
  for i = 1, math.min(#names, elements_max * 2), 2 do
    if string.sub(names[i], 1, 1) == 'e' then
      local present, value = element(key, kind, string.sub(names[i], 2))
      if type(value) == 'string' then spent = spent + #value end
      list[#list + 1] = { names[i], names[i + 1], present, value }
    else
      list[#list + 1] = { names[i], names[i + 1], 2, '' }
    end
    if spent > budget then break end
  end
  return list
end

local function collection(key, token, kind, expires)
  local companion = 'parallax:elements:' .. key
  local is_collection = kind == 'hash' or kind == 'set' or kind == 'zset'
  if not wants_marked or not is_collection or redis.call('HLEN', companion) == 0
    or redis.call('HEXISTS', companion, '*') == 1 then
    return { 'whole', token }
  end
  return { 'elements', token, kind, expires, touched(key, kind, companion) }
end

local function list_log(key, token, kind, expires, newest_left)
  local log = 'parallax:log:' .. key
  local known = redis.call('HMGET', log, 'counter', 'captured', 'digest', 'base')
  local length, counter, captured, missing = redis.call('LLEN', key), tonumber(known[1]), tonumber(known[2]), 0
  local function at(index) return redis.call('LINDEX', key, newest_left and index or -1 - index) end
  if not counter then counter = (captured or 0) + length end
  local fresh = captured and counter - captured or length
  if captured and known[3] and fresh < length and (fresh < 0 or redis.sha1hex(at(fresh)) ~= known[3]) then
    -- Pushes passed us by, or were counted and refused: the entry captured last tells where we are.
    fresh = length
    for index = 0, length - 1 do
      if redis.sha1hex(at(index)) == known[3] then fresh = index break end
    end
    missing = fresh == length and 1 or 0
    counter = captured + fresh
  end
  if fresh > length then missing, fresh = fresh - length, length end
  if not captured and known[4] then
    -- The first capture of all: what was pushed since we count, and is no longer there.
    missing = math.max(0, counter - tonumber(known[4]) - length)
  end
  if not wants_marked then fresh = length end
  redis.call('HMSET', log, 'counter', string.format('%.0f', counter))
  local parts = {}
  if fresh > 0 then
    parts = newest_left and redis.call('LRANGE', key, 0, fresh - 1) or redis.call('LRANGE', key, -fresh, -1)
  end
  weigh(parts)
  local entries = {}
  for index, part in ipairs(parts) do
    local id = newest_left and counter - index + 1 or counter - fresh + index
    entries[index] = { string.format('%020.0f', id), part }
  end
  local digest = length > 0 and redis.sha1hex(at(0)) or ''
  local first, last = string.format('%020.0f', counter - length + 1), string.format('%020.0f', counter)
  return { 'log', token, kind, expires, first, last, missing, 0, entries, {}, string.format('%.0f', counter), digest }
end

local function field_of(info, name)
  for i = 1, #info, 2 do if info[i] == name then return info[i + 1] end end
end

local function stream_log(key, token, kind, expires, after)
  local companion = 'parallax:elements:' .. key
  if wants_marked and redis.call('HEXISTS', companion, '*') == 1 then return { 'whole', token } end
  local known = redis.call('HMGET', 'parallax:log:' .. key, 'captured', 'added')
  local info = redis.call('XINFO', 'STREAM', key)
  local total, last = tonumber(field_of(info, 'entries-added')) or 0, field_of(info, 'last-generated-id')
  local added = tonumber(known[2])
  local start = known[1]
  if added and total < added then start, added = false, 0 end
  if not wants_marked then start, added = after ~= '' and after, nil end
  -- Where this capture reached is noted by an ack that finds it was the last one of this life of the stream.
  redis.call('HMSET', 'parallax:log:' .. key, 'taken', token ~= '' and token or '-')
  local entries = redis.call('XRANGE', key, start and '(' .. start or '-', '+', 'COUNT', entries_max)
  weigh(entries)
  local more = #entries == entries_max and 1 or 0
  -- Before the first capture of all nothing was counted, so nothing is missed: of the entries ever added, those that are
  -- still to come are the ones behind this page.
  local missing, reached = 0, added and added + #entries or total - (redis.call('XLEN', key) - #entries)
  if more == 0 then
    if added and total > reached then missing = total - reached end
    reached = total
  end
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local newest = #entries > 0 and entries[#entries][1] or start or last
  return { 'log', token, kind, expires, oldest and oldest[1] or last, newest, missing, more, entries,
    touched(key, kind, companion), newest, string.format('%.0f', reached) }
end

local function capture(key, shape, after)
  local token = redis.call('HGET', 'parallax:outbox', key) or ''
  if wants_marked and token == '' then return { 'clean', '' } end
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return { 'absent', token } end
  if spent > budget then return { 'later', token } end
  local expires = string.format('%.0f', redis.call('PEXPIRETIME', key))
  if shape == 'c' then return collection(key, token, kind, expires) end
  if kind == 'list' and shape == 'l' then return list_log(key, token, kind, expires, true) end
  if kind == 'list' and shape == 'r' then return list_log(key, token, kind, expires, false) end
  if kind == 'stream' and shape == 's' then return stream_log(key, token, kind, expires, after) end
  local size = kind == 'string' and redis.call('STRLEN', key) or redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 5)
  if size and size > largest then return { 'large', token } end
  local parts = read(key, kind)
  if not parts then return { 'module', token } end
  weigh(parts)
  return { 'value', token, kind, expires, parts }
end

for i, key in ipairs(KEYS) do answer[4 + i] = capture(key, ARGV[3 + 2 * i], ARGV[4 + 2 * i]) end
return answer
