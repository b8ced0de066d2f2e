-- Takes or keeps a lease that one sidecar at a time holds. KEYS: the lease. ARGV: run_id, the sidecar, how long in ms.
-- Answers 1 when it holds the lease now, else 0.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return 0 end
redis.call('PSETEX', KEYS[1], ARGV[3], ARGV[2])
return 1
