-- What several scripts need. It stands before each of them.

-- The value of a key of a known type, as a flat list; nil for a type that has none (modules).
local function read(key, kind)
  if kind == 'string' then return { redis.call('GET', key) } end
  if kind == 'hash' then return redis.call('HGETALL', key) end
  if kind == 'list' then return redis.call('LRANGE', key, 0, -1) end
  if kind == 'set' then return redis.call('SMEMBERS', key) end
  if kind == 'zset' then return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if kind == 'stream' then return redis.call('XRANGE', key, '-', '+') end
  return nil
end

-- One element of a collection: whether it is there, and its value ('' for a member of a set).
local function element(key, kind, name)
  local value
  if kind == 'hash' then value = redis.call('HGET', key, name)
  elseif kind == 'zset' then value = redis.call('ZSCORE', key, name)
  elseif kind == 'set' then value = redis.call('SISMEMBER', key, name) == 1 and ''
  elseif kind == 'stream' then
    local found = redis.call('XRANGE', key, name, name)
    value = found[1] and found[1][2]
  end
  if value then return 1, value end
  return 0, ''
end

local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- The epoch, if versions may be given or compared on this server (C1); nil and the reason if not.
local function epoch_of(run_id)
  local anchor = redis.call('HMGET', 'parallax:anchor', 'run_id', 'epoch')
  if not anchor[1] then return nil, 'LINEAGE no anchor' end
  if anchor[1] ~= run_id then return nil, 'LINEAGE the anchor names another run' end
  return anchor[2]
end

-- A new version: above every version given before, and never behind the server's time (C2).
local function next_version(now)
  local version = tonumber(redis.call('GET', 'parallax:clock') or '0') + 1
  if now > version then version = now end
  local text = string.format('%.0f', version)
  redis.call('MSET', 'parallax:clock', text)
  return text
end

-- The digest of a value in canonical form: the ETag of the records API. What has no order is sorted by its digests, since
-- the server's locale may sort texts in its own way.
local function etag(kind, parts)
  local ordered = {}
  if kind == 'hash' or kind == 'zset' then
    for i = 1, #parts, 2 do
      ordered[#ordered + 1] = redis.sha1hex(#parts[i] .. ':' .. parts[i] .. #parts[i + 1] .. ':' .. parts[i + 1])
    end
    table.sort(ordered)
  elseif kind == 'stream' then
    for _, entry in ipairs(parts) do
      ordered[#ordered + 1] = #entry[1] .. ':' .. entry[1]
      for _, part in ipairs(entry[2]) do ordered[#ordered + 1] = #part .. ':' .. part end
    end
  else
    for _, part in ipairs(parts) do ordered[#ordered + 1] = #part .. ':' .. part end
    if kind == 'set' then
      for i, part in ipairs(ordered) do ordered[i] = redis.sha1hex(part) end
      table.sort(ordered)
    end
  end
  return redis.sha1hex(kind .. '|' .. table.concat(ordered))
end
