-- What every script knows. Keys under the base `KEYS[1]`:
--   :epoch           which memory this is
--   :size            ids in all lists
--   :ring            endpoints that may be served, in turn
--   :blocked         endpoints that wait for a time, by that time in microseconds
--   :deadlines       endpoints with reservations, by their earliest deadline in milliseconds or before it
--   :wake            tokens for idle deliverers
--   :q:<endpoint>    list of delivery ids, 16 bytes each
--   :r:<endpoint>    reservations by deadline: delivery id (16 bytes) and token (8 bytes)
--   :e:<endpoint>    hash: concurrency, rate, tat (GCRA), and state: `ring`, `blocked` or absent
-- An endpoint is in the ring or among the blocked at most once, which `state` ensures.

local base = KEYS[1]

-- After this long without work an endpoint's hash is forgotten; the next push brings it again.
local FORGET_MS = 3600000

local function make_eligible(endpoint)
    local hash = base .. ':e:' .. endpoint
    local waiting = redis.call('LLEN', base .. ':q:' .. endpoint)
    local known = redis.call('HMGET', hash, 'state', 'concurrency')
    if waiting == 0 then
        if not known[1] and redis.call('ZCARD', base .. ':r:' .. endpoint) == 0 then
            redis.call('PEXPIRE', hash, FORGET_MS)
        end
        return false
    end
    if known[1] then
        return false
    end
    if redis.call('ZCARD', base .. ':r:' .. endpoint) >= tonumber(known[2] or '1') then
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
