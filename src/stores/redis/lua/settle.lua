-- Says what the writes left of the keys that may be gone (W2). Stands last in the EXEC.
-- KEYS: outbox, note, then the keys. ARGV: token; for each key 'd' if a command deleted it by name or surely made it
-- before another took it away, else '-'.
local outbox, note, token = KEYS[1], KEYS[2], ARGV[1]
for i = 3, #KEYS do
  local key = KEYS[i]
  if redis.call('EXISTS', key) == 0 then
    local noted = redis.call('HGET', note, key) or '1'
    local older = string.sub(noted, 2)
    if string.sub(noted, 1, 1) == '1' or ARGV[i - 1] == 'd' then
      redis.call('HSET', outbox, key, token .. '!')
    elseif older ~= '' then
      -- Absent before and after: nothing changed, and the older mark still says why the key is absent.
      redis.call('HSET', outbox, key, older)
    else
      redis.call('HDEL', outbox, key)
      redis.call('UNLINK', 'parallax:elements:' .. key)
    end
  end
end
redis.call('UNLINK', note)
return redis.status_reply('OK')
