-- The fence before a read from Postgres (R1), the same for the whole fleet.
-- KEYS: the records. ARGV: run_id. Answers {clock, epoch ('' outside the lineage), time in us, heartbeat,
-- '1' or '0' marked and '1' or '0' present for each key}.
local answer = { redis.call('GET', 'parallax:clock') or '0', epoch_of(ARGV[1]) or '', string.format('%.0f', micros()),
  redis.call('HGET', 'parallax:postgres', 'beat') or '0' }
for _, key in ipairs(KEYS) do
  answer[#answer + 1] = redis.call('HEXISTS', 'parallax:outbox', key)
  answer[#answer + 1] = redis.call('EXISTS', key)
end
return answer
