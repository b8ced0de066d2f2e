-- Marks records that owe a look (W2: HSETNX, behind the lineage check, and the bit is never touched).
-- KEYS: the records. ARGV: run_id, token, '1' when only absent records are meant.
-- Answers how many were marked.
local epoch, reason = epoch_of(ARGV[1])
if not epoch then return redis.error_reply(reason) end
local marked = 0
for _, key in ipairs(KEYS) do
  if ARGV[3] ~= '1' or redis.call('EXISTS', key) == 0 then
    marked = marked + redis.call('HSETNX', 'parallax:outbox', key, ARGV[2])
  end
end
return marked
