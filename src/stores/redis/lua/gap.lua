-- Notes that writes of these kinds may have been missed until now, for whoever brings it to Postgres.
-- ARGV: run_id, cause, the version up to which nothing was missed ('' when only now), what more is known ('': nothing), then
-- the kinds.
-- Answers the version from which on nothing is missed; an error outside the lineage, whose lift notes a gap of its own.
local epoch, reason = epoch_of(ARGV[1])
if not epoch then return redis.error_reply(reason) end
local version = next_version(micros())
for i = 5, #ARGV do
  local name = ARGV[i] .. ' ' .. ARGV[2]
  local noted = redis.call('HGET', 'parallax:gaps', name)
  local from = noted and string.match(noted, '^%d+') or ARGV[3]
  redis.call('HMSET', 'parallax:gaps', name, (from ~= '' and from or version) .. ' ' .. version .. (ARGV[4] ~= '' and ' ' .. ARGV[4] or ''))
end
return version
