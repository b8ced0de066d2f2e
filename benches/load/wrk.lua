-- What wrk sends and prints. Arguments after `--`: a path, and how many keys its `%d` goes through.
-- Prints one line that begins with FIGURES: requests, errors, microseconds of the run, p50 and p99 in microseconds.

function init(args)
  local count = tonumber(args[2] or "1")
  if count > 1 then
    local made, at = {}, 0
    for i = 1, count do
      made[i] = wrk.format("GET", (string.gsub(args[1], "%%d", tostring(i))))
    end
    request = function()
      at = at % count + 1
      return made[at]
    end
  else
    wrk.path = args[1]
    local only = wrk.format("GET", args[1])
    request = function() return only end
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FIGURES %d %d %d %d %d\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)))
end
