-- Raises the counter that gives list entries their ids (G2). Stands right before each push to a log.
-- KEYS: the list. ARGV: how many entries, '1' if the push makes a list that is not there.
local log = 'parallax:log:' .. KEYS[1]
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'list' or (kind == 'none' and ARGV[2] == '1') then
  local counter = redis.call('HGET', log, 'counter')
  if not counter then
    counter = kind == 'list' and redis.call('LLEN', KEYS[1]) or 0
    redis.call('HMSET', log, 'base', counter)
  end
  redis.call('HMSET', log, 'counter', string.format('%.0f', tonumber(counter) + tonumber(ARGV[1])))
end
return redis.status_reply('OK')
