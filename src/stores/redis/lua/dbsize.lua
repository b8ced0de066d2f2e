-- DBSIZE without the keys of our own. Exact up to 10,000 keys; above that only our keys of fixed names are left out, not
-- those that stand beside pending collections, list logs and plans, since to find them Redis would have to read all keys.
local total, ours = redis.call('DBSIZE'), 0
if total <= 10000 then
  local cursor, seen = '0', {}
  repeat
    local page = redis.call('SCAN', cursor, 'MATCH', 'parallax:*', 'COUNT', 1000)
    for _, key in ipairs(page[2]) do
      if not seen[key] then seen[key], ours = true, ours + 1 end
    end
    cursor = page[1]
  until cursor == '0'
else
  ours = redis.call('EXISTS', 'parallax:outbox', 'parallax:clock', 'parallax:anchor', 'parallax:postgres', 'parallax:flags',
    'parallax:audits', 'parallax:sidecars', 'parallax:backfilled', 'parallax:unverifiable', 'parallax:gaps', 'parallax:figures',
    'parallax:plans', 'parallax:judgements', 'parallax:lease:guard', 'parallax:lease:guard:number', 'parallax:lease:sweep',
    'parallax:lease:expunge')
end
return total - ours
