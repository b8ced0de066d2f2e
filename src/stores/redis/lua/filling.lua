-- Puts a value into a key that is absent. What it is made of stands in ARGV from `first` to `last`, in the form of its type.
local words_max = 2000

local function push(command, key, first, last)
  for from = first, last, words_max do
    redis.call(command, key, unpack(ARGV, from, math.min(last, from + words_max - 1)))
  end
end

local function fill(key, kind, first, last)
  if kind == 'string' then redis.call('SET', key, ARGV[first] or '')
  elseif kind == 'hash' then push('HSET', key, first, last)
  elseif kind == 'list' then push('RPUSH', key, first, last)
  elseif kind == 'set' then push('SADD', key, first, last)
  elseif kind == 'zset' then
    for i = first, last, 2 do redis.call('ZADD', key, ARGV[i + 1], ARGV[i]) end
  elseif kind == 'stream' then
    local i = first
    while i <= last do
      local count = tonumber(ARGV[i + 1])
      redis.call('XADD', key, ARGV[i], unpack(ARGV, i + 2, i + 1 + count))
      i = i + 2 + count
    end
  end
end
