-- Changes flags if nobody else did meanwhile, and tells everybody.
-- ARGV: run_id, the version the change is based on, the new version, then kinds and flags (JSON) in turn.
-- Answers {'1', new version} or {'0', the version there is}.
local version = redis.call('HGET', 'parallax:flags', 'version') or '0'
if version ~= ARGV[2] then return { '0', version } end
for i = 4, #ARGV, 2 do redis.call('HSET', 'parallax:flags', ARGV[i], ARGV[i + 1]) end
redis.call('HSET', 'parallax:flags', 'version', ARGV[3])
redis.call('PUBLISH', 'parallax:flags:changed', ARGV[3])
return { '1', ARGV[3] }
