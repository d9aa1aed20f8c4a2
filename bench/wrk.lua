-- wrk's side of the saturation runs: bodies from a file of lines, in turn; every answer checked.
-- Arguments: file of bodies; file of their uids, or "-" where the server answers a fixed uid; "ids" for a request id in
-- the headers, another for each body.

local UID_EVERY = 16

local requests, uids, turn, answers, wrong = {}, nil, 0, 0, 0
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Accept"] = "application/json, */*"
  wrk.headers["Accept-Encoding"] = "gzip"
  wrk.headers["User-Agent"] = "kube-apiserver-admission"
  for line in io.lines(args[1]) do
    if args[3] == "ids" then wrk.headers["X-Request-Id"] = string.format("%036d", #requests) end
    wrk.body = line .. "\n" -- Go's encoder ends a body with a line break
    table.insert(requests, wrk.format())
  end
  if args[2] ~= "-" then
    uids = {}
    for line in io.lines(args[2]) do uids[line] = true end
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status, headers, body)
  answers = answers + 1
  if status ~= 200 or not string.find(body, '"allowed":%s*true') then
    wrong = wrong + 1
  elseif uids and answers % UID_EVERY == 0 and not uids[string.match(body, '"uid":%s*"([^"]*)"')] then
    wrong = wrong + 1
  end
  wrong_total = wrong
end

function done(summary, latency, _)
  local total = 0
  for _, thread in ipairs(threads) do total = total + (thread:get("wrong_total") or 0) end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"reviews": %d, "seconds": %f, "wrong": %d, "socket_errors": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, total,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
