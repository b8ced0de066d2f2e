-- Renews a sidecar's lease, tells what it has confirmed, and answers the flags (S2, S3).
-- ARGV: run_id, instance (empty for a guest, whom nobody waits for), lease in ms, confirmed version, the run of Redis whose
-- flags it confirms (of another run it says nothing: what that one knew may be lost), what to say of itself.
-- Answers {time in ms, version, flags, backfilled kinds, unverifiable kinds, epoch, run_id}.
local now = math.floor(micros() / 1000)
if ARGV[2] ~= '' then
  redis.call('HMSET', 'parallax:sidecars', ARGV[2], cjson.encode({
    lease_until = now + tonumber(ARGV[3]), confirmed = ARGV[5] == ARGV[1] and tonumber(ARGV[4]) or 0, run = ARGV[1],
    about = ARGV[6] }))
end
local version = redis.call('HGET', 'parallax:flags', 'version') or '0'
return { string.format('%.0f', now), version, redis.call('HGETALL', 'parallax:flags'),
  redis.call('HGETALL', 'parallax:backfilled'), redis.call('HGETALL', 'parallax:unverifiable'), epoch_of(ARGV[1]) or '', ARGV[1] }
