-- One look at a record, for a verdict or for the records API (R2): fence and value in one step.
-- KEYS: the record. ARGV: run_id, its kind, 'record' or 'elements', then the names of the elements.
-- Answers {clock, epoch, time in us, heartbeat, marked, epoch of the backfill of the kind ('' while it is owed), type, expiry,
-- ETag, value parts} or, for elements, the last two as '' and {present, value, ...}.
local key = KEYS[1]
local kind = redis.call('TYPE', key).ok
local answer = { redis.call('GET', 'parallax:clock') or '0', epoch_of(ARGV[1]) or '', string.format('%.0f', micros()),
  redis.call('HGET', 'parallax:postgres', 'beat') or '0', redis.call('HEXISTS', 'parallax:outbox', key),
  redis.call('HGET', 'parallax:backfilled', ARGV[2]) or '', kind,
  string.format('%.0f', redis.call('PEXPIRETIME', key)) }
if ARGV[3] == 'record' then
  local parts = read(key, kind) or {}
  answer[9], answer[10] = etag(kind, parts), parts
else
  local found = {}
  for i = 4, #ARGV do
    local present, value = element(key, kind, ARGV[i])
    found[#found + 1] = present
    found[#found + 1] = value
  end
  answer[9], answer[10] = '', found
end
return answer
