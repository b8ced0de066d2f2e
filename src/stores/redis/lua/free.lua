-- Marks, runs and settles one command that frees memory (W1, W2). Redis queues nothing in a MULTI while it is out of memory,
-- and a script that says so may run all the same.
-- KEYS: outbox, then the keys. ARGV: token; for each key: 'd' if the command deletes it by name, else '-', 'c' for a
-- collection, else '-', the number of companion fields, and the fields; then the command.
-- Answers what the command answers.
local outbox, token, at, before = KEYS[1], ARGV[1], 2, {}
for i = 2, #KEYS do
  local key, companion, fields = KEYS[i], 'parallax:elements:' .. KEYS[i], tonumber(ARGV[at + 2])
  before[i] = { ARGV[at] == 'd' or redis.call('EXISTS', key) == 1, redis.call('HGET', outbox, key) }
  redis.call('HSET', outbox, key, token)
  if ARGV[at + 1] == 'c' then
    for field = at + 3, at + 2 + fields do redis.call('HSET', companion, ARGV[field], token) end
  end
  at = at + 3 + fields
end
local answer = redis.pcall(unpack(ARGV, at))
for i = 2, #KEYS do
  local key, was_there, older = KEYS[i], before[i][1], before[i][2]
  if redis.call('EXISTS', key) == 0 then
    if was_there then
      redis.call('HSET', outbox, key, token .. '!')
    elseif older then
      redis.call('HSET', outbox, key, older)
    else
      redis.call('HDEL', outbox, key)
      redis.call('UNLINK', 'parallax:elements:' .. key)
    end
  end
end
return answer
