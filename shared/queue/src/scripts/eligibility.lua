-- Definitions that every script begins with. Keys under the base `KEYS[1]`:
--   :epoch             changes when Redis has lost its memory
--   :clock             time of the last reserve, in microseconds, to detect that the clock was set back
--   :size              number of ids in all lists
--   :waiting           hash: number of ids in the lists of each application
--   :ring              sorted set of applications that may be served, by turn
--   :a:<application>   sorted set of its endpoints that may be served, by turn
--   :blocked           sorted set of endpoints that wait for a time, by that time in microseconds
--   :deadlines         sorted set of endpoints with reservations, by their earliest deadline in milliseconds,
--                      or an earlier time
--   :wake              list of tokens that wake idle deliverers
--   :q:<endpoint>      list of delivery ids, 16 bytes each
--   :r:<endpoint>      sorted set of reservations by deadline: delivery id (16 bytes) and token (8 bytes)
--   :e:<endpoint>      hash: application, concurrency and rate (its limits), tat (GCRA), window (adaptive concurrency),
--                      failures and failing_since (since the last success), and opened, backoff and probe_at (breaker)
-- The sets alone say where an endpoint is, so that nothing can disagree with them. The next push to an endpoint makes
-- lost keys again, and the audit pushes to every endpoint that is late.

local base = KEYS[1]

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)

-- After this long without work an endpoint's hash expires. The next push writes it again.
local FORGET_MS = 3600000

local function integer(number)
    return string.format('%.0f', number)
end

-- An endpoint without a hash gets one exchange at a time.
local function slots(concurrency, window)
    return math.min(tonumber(concurrency or '1'), tonumber(window or '1'))
end

-- An endpoint without a hash counts as an application of its own until the next push.
local function application_of(endpoint)
    return redis.call('HGET', base .. ':e:' .. endpoint, 'application') or endpoint
end

-- Adds a member at the end of a ring, unless it is in the ring already. Returns whether it was added.
local function line_up(ring, member)
    local last = redis.call('ZREVRANGE', ring, 0, 0, 'WITHSCORES')
    return redis.call('ZADD', ring, 'NX', integer(tonumber(last[2] or '0') + 1), member) == 1
end

-- Counts ids that were added to the lists of an application or, if negative, removed from them.
local function count(application, ids)
    if redis.call('INCRBY', base .. ':size', ids) < 0 then
        redis.call('DEL', base .. ':size')
    end
    if redis.call('HINCRBY', base .. ':waiting', application, ids) <= 0 then
        redis.call('HDEL', base .. ':waiting', application)
    end
end

-- What an endpoint's rate limit allows, by the generic cell rate algorithm (GCRA): the number of requests now, and the
-- time from which several are allowed. A stored time that is later than the rate can explain means that the clock was
-- set back.
local function allowance(endpoint, rate, tat)
    local interval = 1000000 / rate
    local burst = math.max(1, math.floor(rate / 4))
    tat = math.max(tat, now_us)
    if tat > now_us + burst * interval then
        tat = now_us + burst * interval
        redis.call('HSET', base .. ':e:' .. endpoint, 'tat', integer(tat))
    end
    -- At high rates, wait for several requests, so that the endpoint is looked at less often.
    local several = math.max(1, math.floor(burst / 8))
    return {
        count = math.floor((now_us + burst * interval - tat) / interval),
        several_at = tat + (several - burst) * interval,
        after = function(requests) return tat + requests * interval end,
    }
end

-- The time of the next probe of an endpoint, in milliseconds; 0 if its breaker is closed.
local function probe_time(endpoint, probe_at, backoff)
    probe_at = tonumber(probe_at or '0')
    local latest = now_ms + tonumber(backoff or '60000')
    if probe_at > latest then
        -- The clock was set back.
        probe_at = latest
        redis.call('HSET', base .. ':e:' .. endpoint, 'probe_at', integer(probe_at))
    end
    return probe_at
end

local function block(endpoint, until_us)
    redis.call('ZADD', base .. ':blocked', integer(until_us), endpoint)
end

-- Adds an endpoint to the rings if it may be served: it has ids and free slots, and does not wait for a time. Returns
-- whether to wake an idle deliverer for it.
local function make_eligible(endpoint)
    local hash = base .. ':e:' .. endpoint
    if redis.call('LLEN', base .. ':q:' .. endpoint) == 0 then
        if redis.call('ZCARD', base .. ':r:' .. endpoint) == 0 then
            redis.call('PEXPIRE', hash, FORGET_MS)
        end
        return false
    end
    local known = redis.call('HMGET', hash, 'application', 'concurrency', 'window', 'probe_at', 'backoff')
    local application = known[1] or endpoint
    local ring = base .. ':a:' .. application
    if redis.call('ZSCORE', base .. ':blocked', endpoint) then
        return false
    end
    if redis.call('ZSCORE', ring, endpoint) then
        return line_up(base .. ':ring', application)
    end
    local probe_at = probe_time(endpoint, known[4], known[5])
    if probe_at > now_ms then
        block(endpoint, probe_at * 1000)
        return false
    end
    if redis.call('ZCARD', base .. ':r:' .. endpoint) >= slots(known[2], known[3]) then
        return false
    end
    line_up(ring, endpoint)
    line_up(base .. ':ring', application)
    return true
end

-- More idle deliverers than this would find nothing to do.
local MAX_WAKE = 16

local function wake()
    if redis.call('LLEN', base .. ':wake') < MAX_WAKE then
        redis.call('RPUSH', base .. ':wake', '1')
    end
end
