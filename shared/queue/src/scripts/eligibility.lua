-- What every script knows. Keys under the base `KEYS[1]`:
--   :epoch             which memory this is
--   :clock             when ids were last reserved, in microseconds: shows that the clock was set back
--   :size              ids in all lists
--   :waiting           hash: ids in all lists of an application
--   :ring              sorted set of applications that may be served, by turn
--   :a:<application>   sorted set of its endpoints that may be served, by turn
--   :blocked           sorted set of endpoints that wait for a time, by that time in microseconds
--   :deadlines         sorted set of endpoints with reservations, by their earliest deadline in milliseconds
--                      or before it
--   :wake              tokens for idle deliverers
--   :q:<endpoint>      list of delivery ids, 16 bytes each
--   :r:<endpoint>      sorted set of reservations by deadline: delivery id (16 bytes) and token (8 bytes)
--   :e:<endpoint>      hash: application, concurrency and rate (its limits), tat (GCRA), window (exchanges at
--                      once, adapted), failures and failing_since (since it last succeeded), and opened, backoff
--                      and probe_at (its breaker)
-- Where an endpoint is follows from the sets alone. A key that is lost is made again by the next push to the
-- endpoint; the audit pushes to every endpoint that is late.

local base = KEYS[1]

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)

-- After this long without work an endpoint's hash is forgotten; the next push brings it again.
local FORGET_MS = 3600000

local function integer(number)
    return string.format('%.0f', number)
end

-- An endpoint that nothing is known of gets one exchange at a time.
local function slots(concurrency, window)
    return math.min(tonumber(concurrency or '1'), tonumber(window or '1'))
end

-- An endpoint whose hash was lost is an application of its own until the next push.
local function application_of(endpoint)
    return redis.call('HGET', base .. ':e:' .. endpoint, 'application') or endpoint
end

-- Gives a member the last turn in a ring, unless it has one.
local function line_up(ring, member)
    local last = redis.call('ZREVRANGE', ring, 0, 0, 'WITHSCORES')
    return redis.call('ZADD', ring, 'NX', integer(tonumber(last[2] or '0') + 1), member) == 1
end

-- Notes that ids have come into the lists of an application, or have left them.
local function count(application, ids)
    if redis.call('INCRBY', base .. ':size', ids) < 0 then
        redis.call('DEL', base .. ':size')
    end
    if redis.call('HINCRBY', base .. ':waiting', application, ids) <= 0 then
        redis.call('HDEL', base .. ':waiting', application)
    end
end

-- What the rate of an endpoint allows, by the generic cell rate algorithm: how many requests now, and the
-- time from which several are allowed. No time that is stored can be further away than the rate explains:
-- then the clock was set back.
local function allowance(endpoint, rate, tat)
    local interval = 1000000 / rate
    local burst = math.max(1, math.floor(rate / 4))
    tat = math.max(tat, now_us)
    if tat > now_us + burst * interval then
        tat = now_us + burst * interval
        redis.call('HSET', base .. ':e:' .. endpoint, 'tat', integer(tat))
    end
    -- Fewer, fuller looks where the rate is high.
    local several = math.max(1, math.floor(burst / 8))
    return {
        count = math.floor((now_us + burst * interval - tat) / interval),
        several_at = tat + (several - burst) * interval,
        after = function(requests) return tat + requests * interval end,
    }
end

-- When the breaker of an endpoint lets a probe through, in milliseconds.
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

-- Lets an endpoint be served if it may be: it has ids and free slots, and waits for no time.
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

-- As many tokens as idle deliverers can be of use.
local MAX_WAKE = 16

local function wake()
    if redis.call('LLEN', base .. ':wake') < MAX_WAKE then
        redis.call('RPUSH', base .. ':wake', '1')
    end
end
