-- Keeps reservations whose exchange is still under way.
-- ARGV: how long from now in milliseconds, then for each: endpoint, then delivery id and token.

local time = redis.call('TIME')
local deadline = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
for at = 2, #ARGV, 2 do
    redis.call('ZADD', base .. ':r:' .. ARGV[at], 'XX', 'GT', deadline, ARGV[at + 1])
end
return 0
