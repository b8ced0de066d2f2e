-- Says what the writes left of the keys that may be gone (W2). Stands last in the EXEC.
-- KEYS: outbox, note, then the keys. ARGV: token; for each key 'd' if a command deleted it by name or surely
-- made it before another took it away, else '-'.
settle(3, #KEYS, ARGV[1], 2)
return redis.status_reply('OK')
