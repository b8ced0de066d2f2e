-- Writes what Postgres has over records that Redis holds, on an operator's word: only where the record is still what was
-- looked at and has no mark, and with a mark of its own, so that the next capture gives it a version above every other.
-- KEYS: the records. ARGV: run_id, epoch, token, then for each key the ETag and the expiry that were seen, 'c' for a collection
-- or '-', type, expiry in ms ('-1': none), the number of parts, and these as a refill has them.
-- Answers 'filled', 'marked', 'changed' or 'expired' for each key.
if epoch_of(ARGV[1]) ~= ARGV[2] then return redis.error_reply('LINEAGE redis changed, or its epoch rose') end
unwatched()
local now, at, answer = micros() / 1000, 4, {}
for i, key in ipairs(KEYS) do
  local seen, seen_expiry, shape = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local kind, expires, count = ARGV[at + 3], tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local first = at + 6
  at = first + count
  local held = redis.call('TYPE', key).ok
  if redis.call('HEXISTS', 'parallax:outbox', key) == 1 then answer[i] = 'marked'
  elseif etag(held, read(key, held) or {}) ~= seen
    or held ~= 'none' and string.format('%.0f', redis.call('PEXPIRETIME', key)) ~= seen_expiry then answer[i] = 'changed'
  elseif expires >= 0 and expires <= now then answer[i] = 'expired'
  else
    redis.call('HMSET', 'parallax:outbox', key, ARGV[3])
    if shape == 'c' then redis.call('HMSET', 'parallax:elements:' .. key, '*', ARGV[3]) end
    redis.call('UNLINK', key)
    fill(key, kind, first, at - 1)
    if expires >= 0 then redis.call('PEXPIREAT', key, string.format('%.0f', expires)) end
    answer[i] = 'filled'
  end
end
return answer
