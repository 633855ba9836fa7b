-- What every operation works with: the keys of one namespace, the clock, what is to be written, and groups. An
-- operation only notes its changes; flush() writes them together, removals first. So an operation that is refused has
-- written nothing, and once the first write went through the server does not stop the others.

local ns = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local listening, origin, channel = request[1], request[2], request[3]
math.randomseed(request[4])
local is_growing = request[5]

local call, format, null = redis.call, string.format, cjson.null
local floor, max, min, insert = math.floor, math.max, math.min, table.insert

local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2] + (tonumber(call('HGET', ns .. ':meta', 'clock_offset')) or 0)

local FINAL = { succeeded = true, dead = true, cancelled = true }
local CHUNK = 2000

local function key(name, part) return ns .. ':' .. name .. ':' .. part end

local JOBS, PAYLOADS, OPTIONS = ns .. ':jobs', ns .. ':payloads', ns .. ':options'
local RESULTS, ERRORS, PROGRESS = ns .. ':results', ns .. ':errors', ns .. ':progress'
local LEASES, EXPIRING, UNIQUE = ns .. ':leases', ns .. ':expiring', ns .. ':unique'
local GROUPS, NAMES, COUNTS = ns .. ':groups', ns .. ':names', ns .. ':counts'
local PAUSES, STOPPED, SETTLING = ns .. ':pauses', ns .. ':stopped', ns .. ':settling'

-- Whole numbers and words as JSON. Jobs that come together share most of theirs.
local digits = setmetatable({}, { __index = function(known, number)
  -- A sum is never -0, which is the same key as 0.
  local text = format('%.0f', number + 0)
  known[number] = text
  return text
end })
local words = setmetatable({}, { __index = function(known, word)
  local text = cjson.encode(word)
  known[word] = text
  return text
end })

local function whole(value) return value and digits[value] or 'null' end
local function quoted(value) return value and words[value] or 'null' end

-- What is to be written -----------------------------------------------------------------------------------------

local hashes, zsets, sets, counted = {}, {}, {}, {}
-- The groups whose ready jobs, or those to come, have changed.
local touched, touched_later = {}, {}

local function note(where, at, member, value)
  local changes = where[at]
  if not changes then
    changes = {}
    where[at] = changes
  end
  changes[member] = value
end

-- A value of false removes the member.
local function hset(at, field, value) note(hashes, at, field, value) end
local function zset(at, member, score) note(zsets, at, member, score) end
local function sset(at, member, present) note(sets, at, member, present) end

-- Read a field as it will be.
local function hget(at, field)
  local changes = hashes[at]
  local value = changes and changes[field]
  if value == nil then value = call('HGET', at, field) end
  return value or nil
end

local function in_chunks(command, at, list)
  for first = 1, #list, CHUNK do
    call(command, at, unpack(list, first, min(first + CHUNK - 1, #list)))
  end
end

local function pair_score(list, member, score)
  local last = #list
  list[last + 1], list[last + 2] = digits[score], member
end

local function pair_value(list, field, value)
  local last = #list
  list[last + 1], list[last + 2] = field, value
end

local function single(list, member) list[#list + 1] = member end

-- Remove what is to go, and return a function that adds the rest.
local function removing(where, remove, add, pair)
  local coming = {}
  for at, changes in pairs(where) do
    local gone, added = {}, {}
    for member, value in pairs(changes) do
      if value then pair(added, member, value) else gone[#gone + 1] = member end
    end
    in_chunks(remove, at, gone)
    coming[at] = added
  end
  return function()
    for at, added in pairs(coming) do in_chunks(add, at, added) end
  end
end

-- Groups: what the jobs of one line have in common, so that a claim walks only the lines that fit it -------------

local groups, named = {}, {}

local function as_group(number, text)
  local queue, kind, labels = unpack(cjson.decode(text))
  local group = {
    number = number, queue = queue, kind = kind, labels = labels, text = text,
    ready = key('ready', number), later = key('later', number),
  }
  groups[number] = group
  return group
end

local function group_of(number)
  local group = groups[number] or as_group(number, call('HGET', NAMES, number))
  named[number] = group.text
  return group
end

local group_count
local function group_named(text)
  local number = tonumber(hget(GROUPS, text))
  if not number then
    group_count = (group_count or call('HLEN', GROUPS)) + 1
    number = group_count
    hset(GROUPS, text, number)
    hset(NAMES, number, text)
    as_group(number, text)
  end
  return number
end
