-- Marks the keys from `first` to `last` (W1-W3); the arguments from `at` on say how. Answers where they end.
local function mark(first, last, token, at)
  local outbox, note = KEYS[1], KEYS[2]
  for i = first, last do
    local key, flags, fields = KEYS[i], ARGV[at], tonumber(ARGV[at + 1])
    at = at + 2
    local present = redis.call('EXISTS', key)
    if string.find(flags, 'n', 1, true) then
      redis.call('HMSET', note, key, present .. (redis.call('HGET', outbox, key) or ''))
    end
    redis.call('HMSET', outbox, key, string.find(flags, 'g', 1, true) and token .. '!' or token)
    if string.find(flags, 'c', 1, true) then
      local companion = 'parallax:elements:' .. key
      if present == 0 and string.find(flags, 's', 1, true) then
        -- A stream that begins here has nothing yet: whatever is trimmed before its first capture is missed (G3).
        redis.call('HMSET', 'parallax:log:' .. key, 'captured', '0-0', 'added', 0, 'taken', '')
      elseif present == 0 then
        -- A collection that was not there is marked whole, so that it is complete from its first capture.
        redis.call('HMSET', companion, '*', token)
      end
      for field = at, at + fields - 1 do redis.call('HMSET', companion, ARGV[field], token) end
    end
    at = at + fields
  end
  return at
end
