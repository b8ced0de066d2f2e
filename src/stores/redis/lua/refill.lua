-- Writes records that a lost Redis no longer has (L2): only while there is no anchor, in the run under which the epoch was
-- raised, and only where the key is absent and has no mark.
-- KEYS: the records. ARGV: run_id, the run of the restore, then for each key its type, expiry in ms ('-1': none), the number
-- of parts, and these: for a hash and a sorted set names and values in turn, for a stream id, number of words and these.
-- Answers 'filled', 'present', 'marked' or 'expired' for each key.
if ARGV[1] ~= ARGV[2] then return redis.error_reply('LINEAGE redis changed once more') end
if redis.call('EXISTS', 'parallax:anchor') == 1 then return redis.error_reply('LINEAGE the anchor is there again') end
local now, at, answer, words_max = micros() / 1000, 3, {}, 2000

local function push(command, key, first, last)
  for from = first, last, words_max do
    redis.call(command, key, unpack(ARGV, from, math.min(last, from + words_max - 1)))
  end
end

local function fill(key, kind, first, last)
  if kind == 'string' then redis.call('SET', key, ARGV[first] or '')
  elseif kind == 'hash' then push('HSET', key, first, last)
  elseif kind == 'list' then push('RPUSH', key, first, last)
  elseif kind == 'set' then push('SADD', key, first, last)
  elseif kind == 'zset' then
    for i = first, last, 2 do redis.call('ZADD', key, ARGV[i + 1], ARGV[i]) end
  elseif kind == 'stream' then
    local i = first
    while i <= last do
      local count = tonumber(ARGV[i + 1])
      redis.call('XADD', key, ARGV[i], unpack(ARGV, i + 2, i + 1 + count))
      i = i + 2 + count
    end
  end
end

for i, key in ipairs(KEYS) do
  local kind, expires, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local first = at + 3
  at = first + count
  if redis.call('HEXISTS', 'parallax:outbox', key) == 1 then answer[i] = 'marked'
  elseif redis.call('EXISTS', key) == 1 then answer[i] = 'present'
  elseif expires >= 0 and expires <= now then answer[i] = 'expired'
  else
    fill(key, kind, first, at - 1)
    if expires >= 0 then redis.call('PEXPIREAT', key, string.format('%.0f', expires)) end
    answer[i] = 'filled'
  end
end
return answer
