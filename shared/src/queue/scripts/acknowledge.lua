-- Ends reservations: there is nothing left to do for these ids.
-- ARGV: for each: endpoint, then delivery id and token (24 bytes).

local endpoints = {}
for at = 1, #ARGV, 2 do
    redis.call('ZREM', base .. ':r:' .. ARGV[at], ARGV[at + 1])
    endpoints[ARGV[at]] = true
end
for endpoint in pairs(endpoints) do
    if redis.call('ZCARD', base .. ':r:' .. endpoint) == 0 then
        redis.call('ZREM', base .. ':deadlines', endpoint)
    end
    if make_eligible(endpoint) then
        wake()
    end
end
return 0
