-- Queues ids and brings the limits of their endpoints along.
-- ARGV: epoch, window, capacity, few, then for each endpoint: endpoint, concurrency, rate (0: none), whether
-- its breaker is open (1 or 0), ids.
-- Answers how many ids of each endpoint fitted, in the same order; the first ones of each do.

if redis.call('GET', base .. ':epoch') ~= ARGV[1] then
    return redis.error_reply('EPOCH the queue has another memory')
end

-- `unpack` has a limit.
local CHUNK = 1000

local window, capacity, few = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local size = tonumber(redis.call('GET', base .. ':size') or '0')
local accepted = {}
local any_eligible = false

for at = 5, #ARGV, 5 do
    local endpoint, ids = ARGV[at], ARGV[at + 4]
    local hash, queue = base .. ':e:' .. endpoint, base .. ':q:' .. endpoint
    redis.call('HSET', hash, 'concurrency', ARGV[at + 1], 'rate', ARGV[at + 2])
    redis.call('PERSIST', hash)
    if ARGV[at + 3] == '1' then
        -- Remembered from before Redis lost its memory: the first success closes it, a failure opens it.
        redis.call('HSETNX', hash, 'opened', 1)
    end
    local waiting = redis.call('LLEN', queue)
    -- However full the queue is, an endpoint with nothing waiting gets a few ids in.
    local room = math.max(math.min(window - waiting, capacity - size), few - waiting)
    local count = math.max(math.min(#ids / 16, room), 0)
    for first = 1, count, CHUNK do
        local chunk = {}
        for i = first, math.min(first + CHUNK - 1, count) do
            chunk[#chunk + 1] = string.sub(ids, i * 16 - 15, i * 16)
        end
        redis.call('RPUSH', queue, unpack(chunk))
    end
    size = size + count
    accepted[#accepted + 1] = count
    if make_eligible(endpoint) then
        any_eligible = true
    end
end

redis.call('SET', base .. ':size', size)
if any_eligible then
    wake()
end
return accepted
