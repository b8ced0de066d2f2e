-- Forgets a gap that Postgres has, unless it has grown meanwhile. ARGV: run_id, its name, what Postgres has of it.
if redis.call('HGET', 'parallax:gaps', ARGV[2]) == ARGV[3] then redis.call('HDEL', 'parallax:gaps', ARGV[2]) end
return redis.status_reply('OK')
