-- Gathers a part of a collection or log beside its key, where nobody sees it (L2).
-- KEYS: the place beside. ARGV: run_id, the run of the restore, command ('HSET', 'SADD', 'ZADD', 'LPUSH', 'RPUSH' or 'XADD'),
-- '1' for the first part, and the words: for XADD id, number of words and these. Answers how many words there were.
if ARGV[1] ~= ARGV[2] then return redis.error_reply('LINEAGE redis changed once more') end
if redis.call('EXISTS', 'parallax:anchor') == 1 then return redis.error_reply('LINEAGE the anchor is there again') end
unwatched()
local key, words_max = KEYS[1], 2000
if ARGV[4] == '1' then redis.call('UNLINK', key) end
if ARGV[3] == 'XADD' then
  local i = 5
  while i <= #ARGV do
    local count = tonumber(ARGV[i + 1])
    redis.call('XADD', key, ARGV[i], unpack(ARGV, i + 2, i + 1 + count))
    i = i + 2 + count
  end
else
  for from = 5, #ARGV, words_max do
    redis.call(ARGV[3], key, unpack(ARGV, from, math.min(#ARGV, from + words_max - 1)))
  end
end
-- What is left beside by a restore that died goes by itself.
redis.call('PEXPIRE', key, 3600000)
return #ARGV - 4
