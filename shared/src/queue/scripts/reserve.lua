-- Reserves ids, a fair share of each endpoint in turn.
-- ARGV: how many, token (8 bytes), how long a reservation lasts in milliseconds.
-- Answers the microseconds until a blocked endpoint may be served (-1: none), then endpoint, id, …

-- How much one call looks at, whatever there is.
local MAX_ENDPOINTS = 64
local MAX_EXPIRED = 128

local wanted, token, lasts_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

-- Reservations whose deliverer is gone: their ids come first again.
local late = redis.call('ZRANGEBYSCORE', base .. ':deadlines', '-inf', now_ms, 'LIMIT', 0, MAX_ENDPOINTS)
for _, endpoint in ipairs(late) do
    local reservations = base .. ':r:' .. endpoint
    local expired = redis.call('ZRANGEBYSCORE', reservations, '-inf', now_ms, 'LIMIT', 0, MAX_EXPIRED)
    for _, member in ipairs(expired) do
        redis.call('ZREM', reservations, member)
        redis.call('LPUSH', base .. ':q:' .. endpoint, string.sub(member, 1, 16))
    end
    redis.call('INCRBY', base .. ':size', #expired)
    local earliest = redis.call('ZRANGE', reservations, 0, 0, 'WITHSCORES')
    if earliest[2] then
        redis.call('ZADD', base .. ':deadlines', earliest[2], endpoint)
    else
        redis.call('ZREM', base .. ':deadlines', endpoint)
    end
    make_eligible(endpoint)
end

-- Endpoints whose time has come.
local ready = redis.call('ZRANGEBYSCORE', base .. ':blocked', '-inf', integer(now_us), 'LIMIT', 0, MAX_ENDPOINTS)
for _, endpoint in ipairs(ready) do
    redis.call('ZREM', base .. ':blocked', endpoint)
    redis.call('HDEL', base .. ':e:' .. endpoint, 'state')
    make_eligible(endpoint)
end

-- How many requests the rate allows now, by the generic cell rate algorithm, and when it allows more.
local function allowance(rate, tat)
    if rate == 0 then
        return wanted, nil, nil
    end
    local interval = 1000000 / rate
    local burst = math.max(1, math.floor(rate / 4))
    tat = math.max(tat, now_us)
    local allowed = math.floor((now_us + burst * interval - tat) / interval)
    return allowed, interval, tat, burst
end

local reserved = {}
local share = math.max(1, math.ceil(wanted / math.max(1, redis.call('LLEN', base .. ':ring'))))
local visits = 0
while wanted > 0 and visits < MAX_ENDPOINTS do
    visits = visits + 1
    local endpoint = redis.call('LPOP', base .. ':ring')
    if not endpoint then
        break
    end
    local hash, queue = base .. ':e:' .. endpoint, base .. ':q:' .. endpoint
    local reservations = base .. ':r:' .. endpoint
    local known = redis.call('HMGET', hash, 'concurrency', 'rate', 'tat', 'window', 'probe_at')
    local probe_at = tonumber(known[5] or '0')
    local free = slots(known[1], known[4]) - redis.call('ZCARD', reservations)
    if probe_at > now_ms then
        free = 0
    end
    local allowed, interval, tat, burst = allowance(tonumber(known[2] or '0'), tonumber(known[3] or '0'))
    local count = math.min(wanted, share, free, allowed)
    local ids = {}
    if count > 0 then
        ids = redis.call('LPOP', queue, count) or {}
    end
    for _, id in ipairs(ids) do
        -- An id that is reserved twice under one token counts once.
        redis.call('ZADD', reservations, now_ms + lasts_ms, id .. token)
        reserved[#reserved + 1] = endpoint
        reserved[#reserved + 1] = id
    end
    if #ids > 0 then
        redis.call('ZADD', base .. ':deadlines', 'LT', now_ms + lasts_ms, endpoint)
        redis.call('DECRBY', base .. ':size', #ids)
        wanted = wanted - #ids
        if interval then
            tat = tat + #ids * interval
            redis.call('HSET', hash, 'tat', integer(tat))
        end
    end
    if probe_at > now_ms then
        -- Its breaker has opened since it came into the ring.
        block(endpoint, probe_at * 1000)
    elseif redis.call('LLEN', queue) == 0 or free - #ids <= 0 then
        -- A push, or an acknowledgement, brings it back.
        redis.call('HDEL', hash, 'state')
    elseif interval and allowed - #ids <= 0 then
        -- Until several are allowed, where the rate is high: fewer, fuller looks.
        local several = math.max(1, math.floor(burst / 8))
        block(endpoint, tat + (several - burst) * interval)
    else
        redis.call('RPUSH', base .. ':ring', endpoint)
    end
end

-- There is more: another deliverer may be idle.
if redis.call('LLEN', base .. ':ring') > 0 then
    wake()
end

local next_blocked = redis.call('ZRANGE', base .. ':blocked', 0, 0, 'WITHSCORES')
local wait_us = -1
if next_blocked[2] then
    wait_us = math.max(0, tonumber(next_blocked[2]) - now_us)
end
table.insert(reserved, 1, wait_us)
return reserved
