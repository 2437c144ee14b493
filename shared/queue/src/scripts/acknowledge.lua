-- Ends reservations of ids for which nothing is left to do. The results of their exchanges adapt each endpoint's
-- concurrency, and open or close its breaker.
-- ARGV: for each reservation: endpoint, delivery id and token (24 bytes), result (`-` none, `+` success, `!` failure,
-- `<` the receiver was too slow or too busy), duration in milliseconds.
-- Returns the breakers that opened or closed: endpoint, `open` or `closed`, milliseconds until the next probe,
-- milliseconds since the endpoint began to fail, …

-- A breaker opens after this many consecutive failures, over at least this time.
local MIN_FAILURES, MIN_FAILING_MS = 3, 10000
-- The first delay before a probe, and the longest.
local MIN_BACKOFF_MS, MAX_BACKOFF_MS = 5000, 60000

local told = {}
for at = 1, #ARGV, 4 do
    local endpoint, what, took_ms = ARGV[at], ARGV[at + 2], tonumber(ARGV[at + 3])
    redis.call('ZREM', base .. ':r:' .. endpoint, ARGV[at + 1])
    local sum = told[endpoint]
    if not sum then
        sum = { succeeded = 0, failed = 0, is_overloaded = false, longest_ms = 0 }
        told[endpoint] = sum
    end
    if what == '+' then
        sum.succeeded = sum.succeeded + 1
    elseif what ~= '-' then
        sum.failed = sum.failed + 1
        sum.is_overloaded = sum.is_overloaded or what == '<'
        sum.longest_ms = math.max(sum.longest_ms, took_ms)
    end
end

local changes = {}
local function change(endpoint, state, probe_ms, failing_ms)
    for _, value in ipairs({ endpoint, state, probe_ms, failing_ms }) do
        changes[#changes + 1] = value
    end
end

local function adapt(endpoint, sum)
    local hash = base .. ':e:' .. endpoint
    local known = redis.call('HMGET', hash, 'concurrency', 'window', 'failures', 'failing_since', 'opened',
        'backoff', 'probe_at')
    local window = slots(known[1], known[2])
    local adapted = math.min(window + sum.succeeded, tonumber(known[1] or '1'))
    if sum.is_overloaded then
        adapted = math.max(1, math.floor(window / 2))
    end
    if adapted ~= window or not known[2] then
        redis.call('HSET', hash, 'window', adapted)
    end
    if sum.succeeded > 0 then
        if known[3] or known[5] then
            redis.call('HDEL', hash, 'failures', 'failing_since', 'opened', 'backoff', 'probe_at')
        end
        if known[5] then
            change(endpoint, 'closed', 0, 0)
        end
        return
    end
    local failures = tonumber(known[3] or '0') + sum.failed
    local failing_since = math.min(tonumber(known[4] or integer(now_ms - sum.longest_ms)), now_ms)
    redis.call('HSET', hash, 'failures', failures, 'failing_since', integer(failing_since))
    local is_failing = failures >= MIN_FAILURES and now_ms - failing_since >= MIN_FAILING_MS
    -- Once the breaker is open, failures of exchanges that began before do not count: only a probe that is due does.
    if (known[5] or is_failing) and probe_time(endpoint, known[7], known[6]) <= now_ms then
        local backoff = math.min(tonumber(known[6] or integer(MIN_BACKOFF_MS / 2)) * 2, MAX_BACKOFF_MS)
        redis.call('HSET', hash, 'opened', 1, 'window', 1, 'backoff', integer(backoff), 'probe_at',
            integer(now_ms + backoff))
        change(endpoint, 'open', backoff, now_ms - failing_since)
    end
end

for endpoint, sum in pairs(told) do
    if sum.succeeded + sum.failed > 0 then
        adapt(endpoint, sum)
    end
    if redis.call('ZCARD', base .. ':r:' .. endpoint) == 0 then
        redis.call('ZREM', base .. ':deadlines', endpoint)
    end
    if make_eligible(endpoint) then
        wake()
    end
end
return changes
