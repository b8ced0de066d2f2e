-- Puts what was gathered beside into its place, under the conditions of a refill (L2).
-- KEYS: the record, the place beside. ARGV: run_id, the run of the restore, expiry in ms ('-1': none), and of a log the id of
-- its newest entry (empty otherwise) and the end that is pushed (l or r). Answers filled, present, marked or expired.
if ARGV[1] ~= ARGV[2] then return redis.error_reply('LINEAGE redis changed once more') end
if redis.call('EXISTS', 'parallax:anchor') == 1 then return redis.error_reply('LINEAGE the anchor is there again') end
local key, beside, expires, newest = KEYS[1], KEYS[2], tonumber(ARGV[3]), ARGV[4]
local outcome
if redis.call('HEXISTS', 'parallax:outbox', key) == 1 then outcome = 'marked'
elseif redis.call('EXISTS', key) == 1 then outcome = 'present'
elseif expires >= 0 and expires <= micros() / 1000 then outcome = 'expired' end
if outcome or redis.call('EXISTS', beside) == 0 then
  redis.call('UNLINK', beside)
  return outcome or 'expired'
end
unwatched()
redis.call('RENAME', beside, key)
if expires >= 0 then redis.call('PEXPIREAT', key, string.format('%.0f', expires)) else redis.call('PERSIST', key) end
local log, kind = 'parallax:log:' .. key, redis.call('TYPE', key).ok
if newest ~= '' and kind == 'list' then
  -- The newest entry lies at the end at which the log is pushed; both ends are the same in a log of one entry.
  local digest = redis.sha1hex(redis.call('LINDEX', key, ARGV[5] == 'l' and 0 or -1))
  redis.call('HMSET', log, 'counter', newest, 'captured', newest, 'digest', digest)
elseif newest ~= '' and kind == 'stream' then
  redis.call('HMSET', log, 'captured', newest, 'added', redis.call('XLEN', key))
end
return 'filled'
