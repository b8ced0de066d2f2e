-- RANDOMKEY without the keys of our own. Answers a key or nil.
for _ = 1, 32 do
  local key = redis.call('RANDOMKEY')
  if not key then return false end
  if string.sub(key, 1, 9) ~= 'parallax:' then return key end
end
-- Nearly all keys are ours: the first other one, from a bounded look.
local cursor = '0'
for _ = 1, 100 do
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  for _, key in ipairs(page[2]) do
    if string.sub(key, 1, 9) ~= 'parallax:' then return key end
  end
  cursor = page[1]
  if cursor == '0' then break end
end
return false
