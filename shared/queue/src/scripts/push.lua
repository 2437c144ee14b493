-- Queues ids and stores the limits of their endpoints. A push without ids repairs its endpoint: keys that were lost are
-- made again.
-- ARGV: epoch, window, capacity, few, factor (an application gets no more room while it has more than this many times
-- what is free), then for each endpoint: endpoint, application, concurrency, rate (0: none), whether its breaker is
-- open (1 or 0), ids.
-- Returns how many ids of each endpoint were queued, in the same order. They are the first ones of each.

if redis.call('GET', base .. ':epoch') ~= ARGV[1] then
    return redis.error_reply('EPOCH the queue has another memory')
end

-- `unpack` accepts a limited number of values.
local CHUNK = 1000

local window, capacity, few = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local factor = tonumber(ARGV[5])
local accepted = {}
local any_eligible = false

for at = 6, #ARGV, 6 do
    local endpoint, application, ids = ARGV[at], ARGV[at + 1], ARGV[at + 5]
    local hash, queue = base .. ':e:' .. endpoint, base .. ':q:' .. endpoint
    redis.call('HSET', hash, 'application', application, 'concurrency', ARGV[at + 2], 'rate', ARGV[at + 3])
    redis.call('PERSIST', hash)
    if ARGV[at + 4] == '1' then
        -- The breaker was open before Redis lost its memory. The first success closes it, a failure opens it again.
        redis.call('HSETNX', hash, 'opened', 1)
    end
    if #ids > 0 then
        local waiting = redis.call('LLEN', queue)
        local free = capacity - tonumber(redis.call('GET', base .. ':size') or '0')
        local has = tonumber(redis.call('HGET', base .. ':waiting', application) or '0')
        local share = math.floor((factor * free - has) / (factor + 1))
        -- However full the queue is, an endpoint with an empty list gets a few ids in.
        local room = math.max(math.min(window - waiting, share), few - waiting)
        local fitting = math.max(math.min(#ids / 16, room), 0)
        for first = 1, fitting, CHUNK do
            local chunk = {}
            for i = first, math.min(first + CHUNK - 1, fitting) do
                chunk[#chunk + 1] = string.sub(ids, i * 16 - 15, i * 16)
            end
            redis.call('RPUSH', queue, unpack(chunk))
        end
        if fitting > 0 then
            count(application, fitting)
        end
        accepted[#accepted + 1] = fitting
    else
        local earliest = redis.call('ZRANGE', base .. ':r:' .. endpoint, 0, 0, 'WITHSCORES')
        if earliest[2] then
            redis.call('ZADD', base .. ':deadlines', 'NX', earliest[2], endpoint)
        end
        accepted[#accepted + 1] = 0
    end
    if make_eligible(endpoint) then
        any_eligible = true
    end
end

if any_eligible then
    wake()
end
return accepted
