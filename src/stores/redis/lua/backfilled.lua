-- Notes that the backfill of kinds was committed, unless marking ended meanwhile or the epoch rose (S4).
-- ARGV: run_id, the epoch in which it ran, the job, then the kinds. Answers how many were noted.
local epoch = epoch_of(ARGV[1])
if epoch ~= ARGV[2] then return 0 end
local noted = 0
for i = 4, #ARGV do
  if redis.call('HGET', 'parallax:backfilled', '~' .. ARGV[i]) == ARGV[3] then
    redis.call('HMSET', 'parallax:backfilled', ARGV[i], epoch)
    redis.call('HDEL', 'parallax:backfilled', '~' .. ARGV[i])
    noted = noted + 1
  end
end
return noted
