-- Notes the heartbeat that Postgres has committed (P1). ARGV: run_id, system identifier, timeline, beat.
-- Answers '1', or '0' when this is not the Postgres we knew.
local known = redis.call('HMGET', 'parallax:postgres', 'system', 'timeline', 'beat')
if known[1] and (known[1] ~= ARGV[2] or known[2] ~= ARGV[3]) then return '0' end
if not known[1] or tonumber(known[3]) < tonumber(ARGV[4]) then
  redis.call('HMSET', 'parallax:postgres', 'system', ARGV[2], 'timeline', ARGV[3], 'beat', ARGV[4])
end
return '1'
