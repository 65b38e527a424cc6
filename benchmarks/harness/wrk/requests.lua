-- Sends rendered requests, each with a number of its own.
-- Arguments: the file of requests; the number of the first one.
local templates = require("templates")
local loaded, number

function init(args)
   loaded = templates.load(args[1])
   number = tonumber(args[2])
end

function request()
   number = number + 1
   return templates.fill(loaded[number % #loaded + 1], number, 0, 0)
end

function done(summary, latency)
   templates.report(summary, latency)
end
