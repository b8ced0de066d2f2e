-- Changes flags and plans in one step, if nobody else did meanwhile; tells everybody, and leaves the audit rows for Postgres.
-- ARGV: run_id, then what is asked as JSON: expected and next version ('' where no flag is written), flags (kind -> JSON),
-- unmarked kinds, audit rows (JSON), lease (of the leader that acts; '' for a person), plans (name -> revision, JSON),
-- judgements (plan -> JSON), decisions (plan -> JSON), outlasts_ms (how long commands outlast a lease, where every sidecar must
-- have renewed in this run of Redis; else '').
-- Answers {what, version}: written, stale (somebody changed flags), moved (somebody changed a plan), not_leading, or unrenewed.
local asked = cjson.decode(ARGV[2])
local version = redis.call('HGET', 'parallax:flags', 'version') or '0'
if asked.lease ~= '' and redis.call('GET', 'parallax:lease:guard') ~= asked.lease then
  return { 'not_leading', version }
end
if asked.expected ~= '' and version ~= asked.expected then return { 'stale', version } end
if asked.outlasts_ms ~= '' then
  -- A sidecar that was last here before a failover may hold flags that this Redis has lost (L3).
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, row in ipairs(redis.call('HVALS', 'parallax:sidecars')) do
    local is_read, sidecar = pcall(cjson.decode, row)
    if is_read and sidecar.run ~= ARGV[1] and sidecar.lease_until + tonumber(asked.outlasts_ms) > now then
      return { 'unrenewed', version }
    end
  end
end
for name, plan in pairs(asked.plans) do
  local kept = redis.call('HGET', 'parallax:plans', name)
  if (kept and cjson.decode(kept).revision or 0) ~= plan.revision then return { 'moved', version } end
end
for name, plan in pairs(asked.plans) do redis.call('HMSET', 'parallax:plans', name, plan.json) end
for name, judgement in pairs(asked.judgements) do redis.call('HMSET', 'parallax:judgements', name, judgement) end
for name, decision in pairs(asked.decisions) do
  redis.call('LPUSH', 'parallax:decisions:' .. name, decision)
  redis.call('LTRIM', 'parallax:decisions:' .. name, 0, 499)
end
if next(asked.decisions) or #asked.audits > 0 then unwatched() end
if asked.expected == '' then return { 'written', version } end
for kind, flag in pairs(asked.flags) do redis.call('HMSET', 'parallax:flags', kind, flag) end
-- What was backfilled is no longer so, nor what is under way (S4).
for _, kind in ipairs(asked.unmarked) do redis.call('HDEL', 'parallax:backfilled', kind, '~' .. kind) end
for _, row in ipairs(asked.audits) do redis.call('RPUSH', 'parallax:audits', row) end
redis.call('HMSET', 'parallax:flags', 'version', asked.next)
redis.call('PUBLISH', 'parallax:flags:changed', asked.next)
return { 'written', asked.next }
