-- Requests that were rendered beforehand, with places for what changes from one to the next.
--
-- The file holds whole HTTP requests, with byte 30 between two. In a request, byte 1 stands for
-- its own number (9 digits), byte 2 for the head that its condition names (padded to 12), and
-- byte 3 for the number that its condition asks about (9 digits). All have a fixed width, so
-- that Content-Length was right when the file was made.
local templates = {}

function templates.load(path)
   local file = assert(io.open(path, "rb"))
   local text = file:read("*a")
   file:close()
   local loaded = {}
   for request in text:gmatch("[^\30]+") do
      local pieces, places = {}, {}
      local start = 1
      while true do
         local at = request:find("[\1\2\3]", start)
         pieces[#pieces + 1] = request:sub(start, (at or 0) - 1)
         if not at then break end
         pieces[#pieces + 1] = ""
         places[#places + 1] = {#pieces, request:byte(at)}
         start = at + 1
      end
      loaded[#loaded + 1] = {pieces = pieces, places = places}
   end
   return loaded
end

-- The request of a template, for its own number, a head, and the number asked about.
function templates.fill(template, number, head, asked)
   local pieces = template.pieces
   for _, place in ipairs(template.places) do
      local at, kind = place[1], place[2]
      if kind == 2 then
         pieces[at] = string.format("%12d", head)
      else
         pieces[at] = string.format("%09d", kind == 1 and number or asked)
      end
   end
   return table.concat(pieces)
end

-- One line for the program that started wrk; `more` are further numbers by name.
function templates.report(summary, latency, more)
   local line = string.format(
      '{"requests":%d,"microseconds":%d,"connect_errors":%d,"read_errors":%d,'
      .. '"write_errors":%d,"timeouts":%d,"refused":%d,"p50":%.1f,"p99":%.1f,"p999":%.1f,'
      .. '"max":%.1f',
      summary.requests, summary.duration, summary.errors.connect, summary.errors.read,
      summary.errors.write, summary.errors.timeout, summary.errors.status,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max)
   for name, value in pairs(more or {}) do
      line = line .. string.format(',"%s":%d', name, value)
   end
   io.write("result ", line, "}\n")
end

return templates
