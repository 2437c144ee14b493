-- What every script knows. Keys under the base `KEYS[1]`:
--   :epoch           which memory this is
--   :size            ids in all lists
--   :ring            endpoints that may be served, in turn
--   :blocked         endpoints that wait for a time, by that time in microseconds
--   :deadlines       endpoints with reservations, by their earliest deadline in milliseconds or before it
--   :wake            tokens for idle deliverers
--   :q:<endpoint>    list of delivery ids, 16 bytes each
--   :r:<endpoint>    reservations by deadline: delivery id (16 bytes) and token (8 bytes)
--   :e:<endpoint>    hash: concurrency and rate (its limits), tat (GCRA), window (exchanges at once, adapted),
--                    failures and failing_since (since it last succeeded), opened, backoff and probe_at (its
--                    breaker), and state: `ring`, `blocked` or absent
-- An endpoint is in the ring or among the blocked at most once, which `state` ensures.

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

local function block(endpoint, until_us)
    redis.call('ZADD', base .. ':blocked', integer(until_us), endpoint)
    redis.call('HSET', base .. ':e:' .. endpoint, 'state', 'blocked')
end

local function make_eligible(endpoint)
    local hash = base .. ':e:' .. endpoint
    local waiting = redis.call('LLEN', base .. ':q:' .. endpoint)
    local known = redis.call('HMGET', hash, 'state', 'concurrency', 'window', 'probe_at')
    if waiting == 0 then
        if not known[1] and redis.call('ZCARD', base .. ':r:' .. endpoint) == 0 then
            redis.call('PEXPIRE', hash, FORGET_MS)
        end
        return false
    end
    if known[1] then
        return false
    end
    if known[4] and tonumber(known[4]) > now_ms then
        block(endpoint, tonumber(known[4]) * 1000)
        return false
    end
    if redis.call('ZCARD', base .. ':r:' .. endpoint) >= slots(known[2], known[3]) then
        return false
    end
    redis.call('HSET', hash, 'state', 'ring')
    redis.call('RPUSH', base .. ':ring', endpoint)
    return true
end

-- As many tokens as idle deliverers can be of use.
local MAX_WAKE = 16

local function wake()
    if redis.call('LLEN', base .. ':wake') < MAX_WAKE then
        redis.call('RPUSH', base .. ':wake', '1')
    end
end
