-- Extends reservations whose exchange is still in progress.
-- ARGV: new duration from now in milliseconds, then for each reservation: endpoint, delivery id and token (24 bytes).

local time = redis.call('TIME')
local deadline = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
for at = 2, #ARGV, 2 do
    redis.call('ZADD', base .. ':r:' .. ARGV[at], 'XX', 'GT', deadline, ARGV[at + 1])
end
return 0
