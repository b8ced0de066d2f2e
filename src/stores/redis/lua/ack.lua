-- Removes marks whose captures are committed: by token, and in the lineage of the capture alone (A3, W3).
-- KEYS: the records. ARGV: run_id, epoch of the capture, then for each key: shape ('d' document, 'e' elements, 'w' whole,
-- 'l' log), token, the number of further arguments, and these: for 'e' and 'w' companion fields and tokens in turn; for
-- 'l' the captured entry, digest or count added, '1' if nothing more waits, then companion fields and tokens.
-- Answers how many marks it removed.
local anchor = redis.call('HMGET', 'parallax:anchor', 'run_id', 'epoch')
if anchor[1] ~= ARGV[1] or anchor[2] ~= ARGV[2] then return redis.error_reply('LINEAGE the capture is of another lineage') end
local at, removed = 3, 0

local function clear(companion, from, to)
  for i = from, to, 2 do
    if redis.call('HGET', companion, ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', companion, ARGV[i]) end
  end
end

for _, key in ipairs(KEYS) do
  local shape, token, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local first, companion = at + 3, 'parallax:elements:' .. key
  at = first + count
  local same = redis.call('HGET', 'parallax:outbox', key) == token
  if shape == 'd' then
    if same then
      removed = removed + redis.call('HDEL', 'parallax:outbox', key)
      -- A mark of a time when the kind was a collection may have left a companion.
      redis.call('UNLINK', companion)
    end
  elseif shape == 'l' then
    local log = 'parallax:log:' .. key
    local captured, taken = unpack(redis.call('HMGET', log, 'captured', 'taken'))
    if ARGV[first] ~= '' then
      if string.find(ARGV[first], '-', 1, true) then
        -- Only of the life that was captured: a stream may have been deleted since, and begun again under the same ids.
        if taken == (token ~= '' and token or '-') then
          redis.call('HMSET', log, 'captured', ARGV[first], 'added', ARGV[first + 1])
        end
      elseif not captured or tonumber(captured) <= tonumber(ARGV[first]) then
        redis.call('HMSET', log, 'captured', ARGV[first], 'digest', ARGV[first + 1])
      end
    end
    clear(companion, first + 3, at - 1)
    if same and ARGV[first + 2] == '1' and redis.call('HLEN', companion) == 0 then
      removed = removed + redis.call('HDEL', 'parallax:outbox', key)
    end
  else
    clear(companion, first, at - 1)
    -- Entries appended to a stream leave nothing in the companion: only the token tells that they came after the capture.
    if redis.call('HLEN', companion) == 0 and token ~= '' and (same or shape == 'e') then
      removed = removed + redis.call('HDEL', 'parallax:outbox', key)
    end
  end
end
return removed
