-- Marks every key of a batch (W1-W3). Stands first in the EXEC of the writes. Allowed to run under maxmemory, so that a
-- delete that frees memory can be marked.
-- KEYS: outbox, note, then the keys. ARGV: token; for each key: flags (g: gone bit, n: note presence and the older mark,
-- c: collection, s: stream), the number of companion fields, and the fields ('*' whole, 'h' header, 'e' + name).
local outbox, note, token, at = KEYS[1], KEYS[2], ARGV[1], 2
for i = 3, #KEYS do
  local key, flags, fields = KEYS[i], ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local present = redis.call('EXISTS', key)
  if string.find(flags, 'n', 1, true) then
    redis.call('HSET', note, key, present .. (redis.call('HGET', outbox, key) or ''))
  end
  redis.call('HSET', outbox, key, string.find(flags, 'g', 1, true) and token .. '!' or token)
  if string.find(flags, 'c', 1, true) then
    local companion = 'parallax:elements:' .. key
    if present == 0 and string.find(flags, 's', 1, true) then
      -- A stream that begins here has nothing yet: whatever is trimmed before its first capture is missed (G3).
      redis.call('HSET', 'parallax:log:' .. key, 'captured', '0-0', 'added', 0)
    elseif present == 0 then
      -- A collection that was not there is marked whole, so that it is complete from its first capture.
      redis.call('HSET', companion, '*', token)
    end
    for field = at, at + fields - 1 do redis.call('HSET', companion, ARGV[field], token) end
  end
  at = at + fields
end
return redis.status_reply('OK')
