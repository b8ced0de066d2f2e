-- Ends a lift (L1): from here on versions are given again, above everything that either store has seen.
-- ARGV: run_id, the run of the lift, epoch, the lowest clock to go on from, system identifier, timeline, heartbeat.
-- Answers '1' when written, '0' when the anchor there is as new or Redis changed once more.
if ARGV[1] ~= ARGV[2] then return '0' end
local epoch = redis.call('HGET', 'parallax:anchor', 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[3]) then return '0' end
local clock = tonumber(redis.call('GET', 'parallax:clock') or '0')
if tonumber(ARGV[4]) > clock then redis.call('MSET', 'parallax:clock', ARGV[4]) end
redis.call('HMSET', 'parallax:anchor', 'run_id', ARGV[1], 'epoch', ARGV[3])
redis.call('HMSET', 'parallax:postgres', 'system', ARGV[5], 'timeline', ARGV[6], 'beat', ARGV[7])
return '1'
