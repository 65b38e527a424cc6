-- Holders that claim deliveries and acknowledge them: in a call each, or one with the other.
--
-- wrk does not tell which connection an answer belongs to, and it does not matter: whoever is
-- next to send acknowledges the batch that has been waiting for the longest, and claims if there
-- is none. One thread drives all connections, so it sees every event that was handed out, and
-- that none of them was handed out twice.
--
-- Arguments: `ack`, `done` (what is done goes with the next claim) or `next` (there are outcomes, and
-- the next claim goes with them); the consumer's path; the headers of every request, with
-- a bar between two; how many holders; how many events a claim asks for; and for outcomes the
-- file of events, one of which goes with each that is acknowledged.
local templates = require("templates")
-- A worker that finds nothing waits at the service, and does not ask again and again.
local WAIT_SECONDS = 5
local mode, path, rest, holders, count
local outcomes, next_outcome = {}, 0
local waiting, first, last = {}, 1, 0
local seen = {}
local threads = {}

claims, claims_answered, empty_claims = 0, 0, 0
acks, acks_answered = 0, 0
claimed, sent = 0, 0
handed_out_twice, later_attempts, strange = 0, 0, 0

function setup(thread)
   threads[#threads + 1] = thread
end

function init(args)
   mode = args[1]
   path = args[2]
   rest = args[3]:gsub("|", "\r\n")
   holders = tonumber(args[4])
   count = tonumber(args[5])
   if mode == "next" then
      local file = assert(io.open(args[6], "rb"))
      for outcome in file:read("*a"):gmatch("[^\30]+") do outcomes[#outcomes + 1] = outcome end
      file:close()
   end
end

local function post(call, body)
   return "POST " .. path .. call .. " HTTP/1.1\r\n" .. rest .. "\r\nContent-Length: " .. #body
      .. "\r\n\r\n" .. body
end

local function ack(tokens)
   acks = acks + 1
   local body = '{"tokens":["' .. table.concat(tokens, '","') .. '"]'
   if mode == "next" then
      local events = {}
      for index = 1, #tokens do
         next_outcome = next_outcome % #outcomes + 1
         events[index] = outcomes[next_outcome]
      end
      claims = claims + 1
      body = body .. ',"events":[' .. table.concat(events, ",") .. '],"next":{"holder":"holder-'
         .. acks % holders .. '","count":' .. count .. "}"
   end
   return post("/ack", body .. "}")
end

local function claim(tokens)
   claims = claims + 1
   local body = '{"holder":"holder-' .. claims % holders .. '","count":' .. count
      .. ',"wait_seconds":' .. WAIT_SECONDS
   if tokens then
      body = body .. ',"done":["' .. table.concat(tokens, '","') .. '"]'
   end
   return post("/claim", body .. "}")
end

local called = false

function request()
   -- wrk calls this once before the start, to see what comes: that first one is never sent.
   if not called then
      called = true
      return post("/claim", "{}")
   end
   if first > last then return claim(nil) end
   local tokens = waiting[first]
   waiting[first] = nil
   first = first + 1
   sent = sent + #tokens
   return mode == "done" and claim(tokens) or ack(tokens)
end

-- Tokens are of one length: generation, position and attempt in hexadecimal, and a position is the
-- event's id. A search for plain text is all that this needs: patterns took a fifth of the
-- processors from the service.
local BEFORE, TOKEN = '"token":"', 16 + 1 + 16 + 1 + 8

local function take(body)
   local tokens, at = {}, 1
   while true do
      local _, before = body:find(BEFORE, at, true)
      if not before then break end
      at = before + TOKEN + 1
      local token = body:sub(before + 1, before + TOKEN)
      if body:sub(at, at) ~= '"' then strange = strange + 1 end
      tokens[#tokens + 1] = token
      local id = token:sub(18, 33)
      if seen[id] then handed_out_twice = handed_out_twice + 1 end
      seen[id] = true
      if token:sub(35) ~= "00000001" then later_attempts = later_attempts + 1 end
   end
   return tokens
end

function response(status, headers, body)
   local handed_out = body:find('"deliveries"', 1, true)
   if status ~= 200 and status ~= 201 then
      strange = strange + 1
      return
   end
   if status == 201 or not handed_out then acks_answered = acks_answered + 1 end
   if not handed_out then return end
   claims_answered = claims_answered + 1
   local tokens = take(body)
   if #tokens == 0 then
      empty_claims = empty_claims + 1
      return
   end
   claimed = claimed + #tokens
   last = last + 1
   waiting[last] = tokens
end

function done(summary, latency)
   local thread = threads[1]
   local more = {}
   for _, name in ipairs({
      "claims", "claims_answered", "empty_claims", "acks", "acks_answered",
      "claimed", "sent", "handed_out_twice", "later_attempts", "strange",
   }) do
      more[name] = thread:get(name)
   end
   templates.report(summary, latency, more)
end
