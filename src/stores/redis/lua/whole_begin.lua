-- Begins the capture of a whole collection (C4): its version, and the tokens that a later ack may clear.
-- KEYS: the record. ARGV: run_id. Answers {version, epoch, time, beat, type, expiry, token, {field, token, ...},
-- and of a log the id captured last and the entries added by then}.
local epoch, reason = epoch_of(ARGV[1])
if not epoch then return redis.error_reply(reason) end
local now, key = micros(), KEYS[1]
local companion, tokens = 'parallax:elements:' .. key, {}
local kind = redis.call('TYPE', key).ok
if kind == 'none' or redis.call('HLEN', companion) <= 4096 then
  tokens = redis.call('HGETALL', companion)
else
  -- Elements that are not listed here keep their tokens and are captured again one by one.
  tokens = { '*', redis.call('HGET', companion, '*') or '' }
end
local token = redis.call('HGET', 'parallax:outbox', key) or ''
if kind == 'stream' then redis.call('HMSET', 'parallax:log:' .. key, 'taken', token ~= '' and token or '-') end
return { next_version(now), epoch, string.format('%.0f', now), redis.call('HGET', 'parallax:postgres', 'beat') or '0',
  kind, string.format('%.0f', redis.call('PEXPIRETIME', key)),
  token, tokens, redis.call('HGET', 'parallax:log:' .. key, 'captured') or '',
  redis.call('HGET', 'parallax:log:' .. key, 'added') or '' }
