-- A write of the records API. Runs as a command among others, behind its mark in the same EXEC, so that the
-- precondition is checked in the step that writes.
-- KEYS: the record. ARGV: 'put', 'patch' or 'delete'; the type the kind has ('hash', 'string' or '' for any);
-- the precondition ('' none, '*' present, '!' absent, else the ETag); time to live in ms or ''; then fields and values
-- for a hash (in a patch: '=' or '-' before each pair) or the one value of a string.
-- Answers {'created' | 'replaced' | 'deleted' | 'absent' | 'precondition' | 'wrongtype', ETag or type}.
local key, what, wanted, condition, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local kind = redis.call('TYPE', key).ok
local present = kind ~= 'none'
if condition ~= '' then
  if condition == '!' then
    if present then return { 'precondition', etag(kind, read(key, kind) or {}) } end
  elseif not present then
    return { 'precondition', '' }
  elseif condition ~= '*' then
    local now = etag(kind, read(key, kind) or {})
    if now ~= condition then return { 'precondition', now } end
  end
end
if what == 'delete' then
  if not present then return { 'absent', '' } end
  redis.call('UNLINK', key)
  return { 'deleted', '' }
end
if present and kind ~= wanted then return { 'wrongtype', kind } end
if what == 'patch' then
  if not present then return { 'absent', '' } end
  for i = 5, #ARGV, 3 do
    if ARGV[i] == '=' then redis.call('HMSET', key, ARGV[i + 1], ARGV[i + 2]) else redis.call('HDEL', key, ARGV[i + 1]) end
  end
elseif wanted == 'string' then
  redis.call('MSET', key, ARGV[5])
else
  redis.call('UNLINK', key)
  for i = 5, #ARGV, 2 do redis.call('HMSET', key, ARGV[i], ARGV[i + 1]) end
end
if ttl ~= '' then redis.call('PEXPIRE', key, ttl) end
return { present and 'replaced' or 'created', etag(wanted, read(key, wanted)) }
