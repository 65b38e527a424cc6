-- Sends appends with a condition: after the last head that an answer told of.
--
-- A share of them must be refused, for the reason for which real ones are. Such a request
-- asks about an event that another request wrote, and names the head that was known when
-- that one was sent; so the event it asks about lies above its `after`. The event must have
-- been written by then: it was sent LAG requests ago, many times more than can be under way
-- at once (one a connection).
--
-- Arguments: the file of requests; the number of the first one; the head; the chance of a
-- request to be sent to be refused, if its event of LAG ago was written; the lag.
local templates = require("templates")
local loaded, number, first, head, chance, lag
local heads, spoilt = {}, {}
local threads = {}

sent_to_fail, stored, failed, strange = 0, 0, 0, 0

function setup(thread)
   threads[#threads + 1] = thread
end

function init(args)
   loaded = templates.load(args[1])
   first = tonumber(args[2])
   head = tonumber(args[3])
   chance = tonumber(args[4])
   lag = tonumber(args[5])
   number = first
   math.randomseed(first)
end

function request()
   number = number + 1
   local asked, after = number, head
   local earlier = number - lag
   -- wrk calls this once before the start, to see what comes: that first one is never sent.
   if earlier > first + 1 and not spoilt[earlier] and math.random() < chance then
      asked, after = earlier, heads[earlier]
      spoilt[number] = true
      sent_to_fail = sent_to_fail + 1
   end
   heads[number] = head
   heads[earlier], spoilt[earlier] = nil, nil
   return templates.fill(loaded[number % #loaded + 1], number, after, asked)
end

function response(status, headers, body)
   if status == 201 then
      stored = stored + 1
      local position = tonumber(body:match('"id":%s*(%d+)'))
      if position and position > head then head = position end
   elseif status == 409 then
      failed = failed + 1
   else
      strange = strange + 1
   end
end

function done(summary, latency)
   local thread = threads[1]
   templates.report(summary, latency, {
      sent_to_fail = thread:get("sent_to_fail"),
      stored = thread:get("stored"),
      failed = thread:get("failed"),
      strange = thread:get("strange"),
   })
end
