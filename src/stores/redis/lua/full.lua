-- Marks, runs and settles in one step where Redis is full: it queues nothing for an EXEC then, not even a DEL, but runs a
-- script that says it may. Every mark is noted and settled, since a refused command may leave its key absent.
-- KEYS: outbox, note, the keys to mark, the same keys again. ARGV: token, the number of keys, what MARK takes of each, what
-- SETTLE takes of each, then for each command the number of its words, and these.
-- Answers each command's reply; one that needs memory gets the error that Redis would have given it.
local words_max = 7000

local function needs_memory(name)
  local info = redis.call('COMMAND', 'INFO', name)[1]
  if not info then return true end
  for _, flag in ipairs(info[3]) do
    if flag.ok == 'denyoom' or flag.ok == 'noscript' then return true end
  end
  return false
end

local function run(first, last)
  -- Lua cannot hand over more words than its stack holds.
  if last - first >= words_max or needs_memory(ARGV[first]) then
    return redis.error_reply("OOM command not allowed when used memory > 'maxmemory'.")
  end
  return redis.pcall(unpack(ARGV, first, last))
end

unwatched()
local token, count = ARGV[1], tonumber(ARGV[2])
local settling = mark(3, 2 + count, token, 3)
local at, replies = settling + count, {}
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  replies[#replies + 1] = run(at + 1, at + words)
  at = at + words + 1
end
settle(3 + count, #KEYS, token, settling)
return replies
