-- Changes flags if nobody else did meanwhile, tells everybody, and leaves the audit rows for Postgres.
-- ARGV: run_id, the version the change is based on, the new version, the number of flags and of kinds that are unmarked
-- from now on, kinds and flags (JSON) in turn, the unmarked kinds, then audit rows (JSON).
-- Answers {'1', new version} or {'0', the version there is}.
local version = redis.call('HGET', 'parallax:flags', 'version') or '0'
if version ~= ARGV[2] then return { '0', version } end
local flags_end = 5 + 2 * tonumber(ARGV[4])
local kinds_end = flags_end + tonumber(ARGV[5])
for i = 6, flags_end, 2 do redis.call('HSET', 'parallax:flags', ARGV[i], ARGV[i + 1]) end
-- What was backfilled is no longer so, nor what is under way (S4).
for i = flags_end + 1, kinds_end do redis.call('HDEL', 'parallax:backfilled', ARGV[i], '~' .. ARGV[i]) end
for i = kinds_end + 1, #ARGV do redis.call('RPUSH', 'parallax:audits', ARGV[i]) end
redis.call('HSET', 'parallax:flags', 'version', ARGV[3])
redis.call('PUBLISH', 'parallax:flags:changed', ARGV[3])
return { '1', ARGV[3] }
