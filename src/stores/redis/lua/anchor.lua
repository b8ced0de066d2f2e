-- Writes the anchor: the first one, or a newer epoch in the same run. Never over another run (that is the lift's).
-- ARGV: run_id, epoch, the lowest clock to go on from, system identifier, timeline, heartbeat.
-- Answers '1' when written, '0' when the anchor there forbids it.
local anchor = redis.call('HMGET', 'parallax:anchor', 'run_id', 'epoch')
if anchor[1] and (anchor[1] ~= ARGV[1] or tonumber(anchor[2]) >= tonumber(ARGV[2])) then return '0' end
local clock = tonumber(redis.call('GET', 'parallax:clock') or '0')
if tonumber(ARGV[3]) > clock then redis.call('MSET', 'parallax:clock', ARGV[3]) end
redis.call('HMSET', 'parallax:anchor', 'run_id', ARGV[1], 'epoch', ARGV[2])
redis.call('HMSET', 'parallax:postgres', 'system', ARGV[4], 'timeline', ARGV[5], 'beat', ARGV[6])
return '1'
