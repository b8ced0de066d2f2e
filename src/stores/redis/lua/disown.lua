-- Before a lift: from here on the anchor names no run, so that a failover back to the one it named is noticed as well (C1).
-- ARGV: run_id.
local named = redis.call('HGET', 'parallax:anchor', 'run_id')
if named and named ~= ARGV[1] then redis.call('HMSET', 'parallax:anchor', 'run_id', 'left') end
return redis.status_reply('OK')
