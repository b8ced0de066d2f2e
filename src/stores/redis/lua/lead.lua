-- Takes or keeps the lease of the leader. Each time that it is taken it gets a number that was never given before, so a
-- leader that was away can be told from the one that came after it.
-- ARGV: run_id, who (a name and a run of it), lease in ms. Answers the lease, or '' when another has it.
local held = redis.call('GET', 'parallax:lease:guard')
local mine = ARGV[2] .. ' '
if held then
  if string.sub(held, 1, #mine) ~= mine then return '' end
  redis.call('PEXPIRE', 'parallax:lease:guard', ARGV[3])
  return held
end
local number = string.format('%.0f', tonumber(redis.call('GET', 'parallax:lease:guard:number') or '0') + 1)
local lease = mine .. number
redis.call('MSET', 'parallax:lease:guard:number', number)
redis.call('PSETEX', 'parallax:lease:guard', ARGV[3], lease)
return lease
