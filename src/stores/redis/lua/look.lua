-- One look at a record, for a verdict or for the records API (R2): fence and value in one step.
-- KEYS: the record. ARGV: run_id, 'record' or 'elements', then the names of the elements.
-- Answers {clock, epoch, time in us, heartbeat, marked, type, expiry, ETag, value parts} or, for elements, the last two
-- as '' and {present, value, ...}.
local key = KEYS[1]
local kind = redis.call('TYPE', key).ok
local answer = { redis.call('GET', 'parallax:clock') or '0', epoch_of(ARGV[1]) or '', string.format('%.0f', micros()),
  redis.call('HGET', 'parallax:postgres', 'beat') or '0', redis.call('HEXISTS', 'parallax:outbox', key), kind,
  string.format('%.0f', redis.call('PEXPIRETIME', key)) }
if ARGV[2] == 'record' then
  local parts = read(key, kind) or {}
  answer[8], answer[9] = etag(kind, parts), parts
else
  local found = {}
  for i = 3, #ARGV do
    local present, value = element(key, kind, ARGV[i])
    found[#found + 1] = present
    found[#found + 1] = value
  end
  answer[8], answer[9] = '', found
end
return answer
