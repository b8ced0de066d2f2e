-- Says what the writes left of the keys from `first` to `last` (W2); the arguments from `at` on say which were deleted by name.
local function settle(first, last, token, at)
  local outbox, note = KEYS[1], KEYS[2]
  for i = first, last do
    local key = KEYS[i]
    if redis.call('EXISTS', key) == 0 then
      local noted = redis.call('HGET', note, key) or '1'
      local older = string.sub(noted, 2)
      if string.sub(noted, 1, 1) == '1' or ARGV[at + i - first] == 'd' then
        redis.call('HMSET', outbox, key, token .. '!')
      elseif older ~= '' then
        -- Absent before and after: nothing changed, and the older mark still says why the key is absent.
        redis.call('HMSET', outbox, key, older)
      else
        redis.call('HDEL', outbox, key)
        redis.call('UNLINK', 'parallax:elements:' .. key)
      end
    end
  end
  redis.call('UNLINK', note)
end
