-- Marks records whose newest writes this Redis has lost, each with a new token (L1). The anchor still names the run before,
-- so the run is what the lift was begun on.
-- KEYS: the records. ARGV: run_id, the run of the lift, token, then for each key 'c' for a collection, else '-'.
-- Answers how many were marked.
if ARGV[1] ~= ARGV[2] then return redis.error_reply('LINEAGE redis changed once more') end
for i, key in ipairs(KEYS) do
  local older = redis.call('HGET', 'parallax:outbox', key)
  local bit = older and string.sub(older, -1) == '!' and '!' or ''
  redis.call('HMSET', 'parallax:outbox', key, ARGV[3] .. bit)
  if ARGV[3 + i] == 'c' then redis.call('HMSET', 'parallax:elements:' .. key, '*', ARGV[3]) end
end
return #KEYS
