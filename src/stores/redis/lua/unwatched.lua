-- Says that a command was called here which is watched for writes that bypass every sidecar: what was counted before says
-- nothing then.
local function unwatched()
  redis.call('MSET', 'parallax:unwatched', string.format('%.0f', tonumber(redis.call('GET', 'parallax:unwatched') or '0') + 1))
end

