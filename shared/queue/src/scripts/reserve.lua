-- Reserves ids: a fair share for each application in turn, and within that for each of its endpoints.
-- ARGV: number of ids, token (8 bytes), duration of a reservation in milliseconds, maximum for each application that is
-- not named here, then for each application with a lower maximum: application, maximum.
-- Returns the microseconds until a blocked endpoint may be served (-1: none is blocked), 1 if an application was held
-- back by its maximum alone (else 0), then application, endpoint, id, …

-- Bounds on what one call looks at: endpoints in total, endpoints of one application per turn, reservations of one
-- endpoint.
local MAX_ENDPOINTS = 64
local MAX_AT_A_TURN = 16
local MAX_EXPIRED = 128

local wanted, token, lasts_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local allotted = {}
for at = 5, #ARGV, 2 do
    allotted[ARGV[at]] = tonumber(ARGV[at + 1])
end

-- If the clock was set back, all stored times are too late. Mark them as due, so that they are computed again from
-- values that are then clamped.
local SET_BACK_US = 100000
if now_us < tonumber(redis.call('GET', base .. ':clock') or '0') - SET_BACK_US then
    redis.call('ZUNIONSTORE', base .. ':blocked', 1, base .. ':blocked', 'WEIGHTS', 0)
    redis.call('ZUNIONSTORE', base .. ':deadlines', 1, base .. ':deadlines', 'WEIGHTS', 0)
end
redis.call('SET', base .. ':clock', integer(now_us))

-- Expired reservations, whose deliverer is gone: their ids go back to the front of their lists.
local late = redis.call('ZRANGEBYSCORE', base .. ':deadlines', '-inf', now_ms, 'LIMIT', 0, MAX_ENDPOINTS)
for _, endpoint in ipairs(late) do
    local reservations = base .. ':r:' .. endpoint
    local expired = redis.call('ZRANGEBYSCORE', reservations, '-inf', now_ms, 'LIMIT', 0, MAX_EXPIRED)
    for _, member in ipairs(expired) do
        redis.call('ZREM', reservations, member)
        redis.call('LPUSH', base .. ':q:' .. endpoint, string.sub(member, 1, 16))
    end
    if #expired > 0 then
        count(application_of(endpoint), #expired)
    end
    local latest = integer(now_ms + lasts_ms)
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', reservations, '(' .. latest, '+inf', 'LIMIT', 0, MAX_EXPIRED)) do
        redis.call('ZADD', reservations, latest, member)
    end
    local earliest = redis.call('ZRANGE', reservations, 0, 0, 'WITHSCORES')
    if earliest[2] then
        redis.call('ZADD', base .. ':deadlines', math.min(tonumber(earliest[2]), now_ms + lasts_ms), endpoint)
    else
        redis.call('ZREM', base .. ':deadlines', endpoint)
    end
    make_eligible(endpoint)
end

-- Endpoints that were blocked and need not wait any longer.
local ready = redis.call('ZRANGEBYSCORE', base .. ':blocked', '-inf', integer(now_us), 'LIMIT', 0, MAX_ENDPOINTS)
for _, endpoint in ipairs(ready) do
    redis.call('ZREM', base .. ':blocked', endpoint)
    make_eligible(endpoint)
end

local reserved = {}
local visits = 0

-- Reserves up to `most` ids of an endpoint, and returns how many.
local function visit(application, endpoint, most)
    local hash, queue = base .. ':e:' .. endpoint, base .. ':q:' .. endpoint
    local reservations = base .. ':r:' .. endpoint
    local known = redis.call('HMGET', hash, 'concurrency', 'rate', 'tat', 'window', 'probe_at', 'backoff')
    local probe_at = probe_time(endpoint, known[5], known[6])
    if probe_at > now_ms then
        -- Its breaker has opened since it was added to the ring.
        block(endpoint, probe_at * 1000)
        return 0
    end
    local free = slots(known[1], known[4]) - redis.call('ZCARD', reservations)
    -- Without a hash, one request per second until the next push.
    local rate = tonumber(known[2] or '1')
    local allowed = rate > 0 and allowance(endpoint, rate, tonumber(known[3] or '0'))
    local take = math.min(most, free, allowed and allowed.count or most)
    local ids = take > 0 and redis.call('LPOP', queue, take) or {}
    for _, id in ipairs(ids) do
        -- An id that is reserved twice under the same token counts once.
        redis.call('ZADD', reservations, now_ms + lasts_ms, id .. token)
        reserved[#reserved + 1] = application
        reserved[#reserved + 1] = endpoint
        reserved[#reserved + 1] = id
    end
    if #ids > 0 then
        redis.call('ZADD', base .. ':deadlines', 'LT', now_ms + lasts_ms, endpoint)
        count(application, -#ids)
        if allowed then
            redis.call('HSET', hash, 'tat', integer(allowed.after(#ids)))
        end
    end
    if free - #ids <= 0 or redis.call('LLEN', queue) == 0 then
        -- An acknowledgement or a push adds it to the ring again.
        return #ids
    end
    if allowed and allowed.count - #ids <= 0 then
        block(endpoint, allowed.several_at + (allowed.after(#ids) - allowed.after(0)))
    else
        line_up(base .. ':a:' .. application, endpoint)
    end
    return #ids
end

-- Reserves up to `most` ids of an application, and returns how many.
local function serve(application, most)
    local ring = base .. ':a:' .. application
    local share = math.max(1, math.ceil(most / math.max(1, redis.call('ZCARD', ring))))
    local taken = 0
    for _ = 1, MAX_AT_A_TURN do
        if taken == most or visits == MAX_ENDPOINTS then
            break
        end
        local endpoint = redis.call('ZPOPMIN', ring)[1]
        if not endpoint then
            break
        end
        visits = visits + 1
        taken = taken + visit(application, endpoint, math.min(most - taken, share))
    end
    return taken
end

local share = math.max(1, math.ceil(wanted / math.max(1, redis.call('ZCARD', base .. ':ring'))))
local held_back = {}
while wanted > 0 and visits < MAX_ENDPOINTS do
    local application = redis.call('ZPOPMIN', base .. ':ring')[1]
    if not application then
        break
    end
    local left = allotted[application] or tonumber(ARGV[4])
    if left <= 0 then
        held_back[#held_back + 1] = application
    else
        local taken = serve(application, math.min(wanted, share, left))
        wanted = wanted - taken
        allotted[application] = left - taken
        if redis.call('EXISTS', base .. ':a:' .. application) == 1 then
            line_up(base .. ':ring', application)
        end
    end
end
local is_more = redis.call('EXISTS', base .. ':ring') == 1
for _, application in ipairs(held_back) do
    line_up(base .. ':ring', application)
end

-- Something is left, and another deliverer may be idle. A deliverer that got nothing must not wake itself for ids that
-- its maximum does not allow.
if is_more or (#held_back > 0 and #reserved > 0) then
    wake()
end

local next_blocked = redis.call('ZRANGE', base .. ':blocked', 0, 0, 'WITHSCORES')
local wait_us = -1
if next_blocked[2] then
    wait_us = math.max(0, tonumber(next_blocked[2]) - now_us)
end
table.insert(reserved, 1, #held_back > 0 and 1 or 0)
table.insert(reserved, 1, wait_us)
return reserved
