-- Writes records that a lost Redis no longer has (L2): only while there is no anchor, in the run under which the epoch was
-- raised, and only where the key is absent and has no mark.
-- KEYS: the records. ARGV: run_id, the run of the restore, then for each key its type, expiry in ms ('-1': none), the number
-- of parts, and these: for a hash and a sorted set names and values in turn, for a stream id, number of words and these.
-- Answers 'filled', 'present', 'marked' or 'expired' for each key.
if ARGV[1] ~= ARGV[2] then return redis.error_reply('LINEAGE redis changed once more') end
if redis.call('EXISTS', 'parallax:anchor') == 1 then return redis.error_reply('LINEAGE the anchor is there again') end
unwatched()
local now, at, answer = micros() / 1000, 3, {}
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
