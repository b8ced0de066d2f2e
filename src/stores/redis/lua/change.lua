-- Changes flags if nobody else did meanwhile, tells everybody, and leaves the audit rows for Postgres.
-- ARGV: run_id, the version the change is based on, the new version, the number of flags, kinds and flags (JSON) in
-- turn, then audit rows (JSON).
-- Answers {'1', new version} or {'0', the version there is}.
local version, count = redis.call('HGET', 'parallax:flags', 'version') or '0', tonumber(ARGV[4])
if version ~= ARGV[2] then return { '0', version } end
for i = 5, 3 + count * 2, 2 do redis.call('HSET', 'parallax:flags', ARGV[i], ARGV[i + 1]) end
for i = 5 + count * 2, #ARGV do redis.call('RPUSH', 'parallax:audits', ARGV[i]) end
redis.call('HSET', 'parallax:flags', 'version', ARGV[3])
redis.call('PUBLISH', 'parallax:flags:changed', ARGV[3])
return { '1', ARGV[3] }
