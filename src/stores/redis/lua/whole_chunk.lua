-- One chunk of a whole collection, with a version of its own (C4).
-- KEYS: the record. ARGV: run_id, cursor (for a stream the id after which to go on), type, elements a chunk.
-- Answers {version, epoch, next cursor ('0' at the end), present, expiry, {element, value, ...}, and of a stream its last
-- id and the entries ever added}.
local epoch, reason = epoch_of(ARGV[1])
if not epoch then return redis.error_reply(reason) end
local key, cursor, kind, count = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
local present = redis.call('TYPE', key).ok
if present ~= kind and present ~= 'none' then return redis.error_reply('CHANGED the type of the record changed') end
local version, found, next, last, added = next_version(micros()), {}, '0', '', '0'
if kind == 'stream' then
  local entries = redis.call('XRANGE', key, cursor == '0' and '-' or '(' .. cursor, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do found[#found + 1] = entry[1] found[#found + 1] = entry[2] end
  if #entries == tonumber(count) then next = entries[#entries][1] end
  local info = present == 'stream' and redis.call('XINFO', 'STREAM', key) or {}
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
    if info[i] == 'entries-added' then added = string.format('%.0f', info[i + 1]) end
  end
else
  local command = kind == 'hash' and 'HSCAN' or kind == 'set' and 'SSCAN' or 'ZSCAN'
  local scanned = redis.call(command, key, cursor, 'COUNT', count)
  next = scanned[1]
  if kind == 'zset' then
    -- ZSCAN writes scores in a form of its own.
    for i = 1, #scanned[2], 2 do
      local score = redis.call('ZSCORE', key, scanned[2][i])
      if score then found[#found + 1] = scanned[2][i] found[#found + 1] = score end
    end
  else
    for _, part in ipairs(scanned[2]) do
      found[#found + 1] = part
      if kind == 'set' then found[#found + 1] = '' end
    end
  end
end
return { version, epoch, next, present == 'none' and 0 or 1, string.format('%.0f', redis.call('PEXPIRETIME', key)), found,
  last, added }
