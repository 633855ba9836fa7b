-- What every operation works with: the keys of one namespace, the clock, jobs as they are loaded, and what is to be
-- written. An operation only notes its changes; flush() writes them together, removals first. So an operation that
-- is refused has written nothing, and once the first write went through the server does not stop the others.

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

-- What is to be written -----------------------------------------------------------------------------------------

local hashes, zsets, sets, counted, touched = {}, {}, {}, {}, {}

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

local function remove_from(where, command)
  for at, changes in pairs(where) do
    local gone = {}
    for member, value in pairs(changes) do
      if not value then gone[#gone + 1] = member end
    end
    in_chunks(command, at, gone)
  end
end

local function add_to(where, command, pair)
  for at, changes in pairs(where) do
    local added = {}
    for member, value in pairs(changes) do
      if value then pair(added, member, value) end
    end
    in_chunks(command, at, added)
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

-- Jobs ----------------------------------------------------------------------------------------------------------

local jobs, changed = {}, {}

local function some(value)
  if value ~= null then return value end
end

local function parse(id, text)
  local r = cjson.decode(text)
  local job = {
    id = id, text = text, state = r[1], group = r[2], priority = r[3], run_at = r[4], created_at = r[5],
    attempt = r[6], max_attempts = r[7], deliveries = r[8],
  }
  if r[9] ~= nil then
    job.parents, job.expires_at, job.unique_key = some(r[9]), some(r[10]), some(r[11])
    job.workflow, job.tenant, job.lease, job.worker = some(r[12]), some(r[13]), some(r[14]), some(r[15])
    job.began, job.claimed_at, job.finished_at, job.cancel = some(r[16]), some(r[17]), some(r[18]), some(r[19])
  end
  return job
end

local function whole(value) return value and format('%.0f', value) or 'null' end

-- Jobs that are claimed together share their words.
local words = {}
local function quoted(value)
  if not value then return 'null' end
  local word = words[value]
  if not word then
    word = cjson.encode(value)
    words[value] = word
  end
  return word
end

-- The stored form of a job: a JSON array without the nulls at its end.
local function encode(job)
  local parts = {
    format('["%s",%d,%d,%.0f,%.0f,%d,%d,%d', job.state, job.group, job.priority, job.run_at, job.created_at,
      job.attempt, job.max_attempts, job.deliveries),
    whole(job.parents), whole(job.expires_at), quoted(job.unique_key), quoted(job.workflow), quoted(job.tenant),
    quoted(job.lease), quoted(job.worker), whole(job.began), whole(job.claimed_at), whole(job.finished_at),
    quoted(job.cancel),
  }
  local last = #parts
  while parts[last] == 'null' do last = last - 1 end
  job.text = table.concat(parts, ',', 1, last) .. ']'
  return job.text
end

local function load(id)
  local job = jobs[id]
  if job == nil then
    local text = call('HGET', JOBS, id)
    job = text and parse(id, text) or false
    jobs[id] = job
  end
  return job or nil
end

local function hmget(at, fields)
  local values = {}
  for first = 1, #fields, CHUNK do
    for index, value in ipairs(call('HMGET', at, unpack(fields, first, min(first + CHUNK - 1, #fields)))) do
      values[first + index - 1] = value
    end
  end
  return values
end

local function load_all(ids)
  local missing = {}
  for _, id in ipairs(ids) do
    if jobs[id] == nil then missing[#missing + 1] = id end
  end
  for index, text in ipairs(hmget(JOBS, missing)) do
    jobs[missing[index]] = text and parse(missing[index], text) or false
  end
end

local function options_of(job)
  if job.options == nil then job.options = hget(OPTIONS, job.id) or false end
  return job.options and cjson.decode(job.options) or {}
end

local function parents_of(job) return job.parents and options_of(job).depends_on or {} end

local final_places = {}
local function final_place(state)
  local at = final_places[state] or key('final', state)
  final_places[state] = at
  return at
end

-- Where a waiting job stands: by priority and time among those that are due, by time before.
local function ready_place(run_at, id) return format('%018.0f', min(max(run_at, 0), 9e17)) .. id end
local function later_place(priority, id) return format('%010d', priority + 2147483648) .. id end

-- Whom to tell afterwards: who waits for jobs in these queues, or in any, and who waits for jobs to finish.
local ready, ready_anywhere, finished = {}, false, false

local function count(job, by)
  local states = counted[job.group]
  if not states then
    states = {}
    counted[job.group] = states
  end
  states[job.state] = (states[job.state] or 0) + by
end

-- A job that has become due is queued, whether or not a claim has come by.
local function state_now(job)
  if job.state == 'waiting' then return job.run_at <= now and 'queued' or 'scheduled' end
  return job.state
end

local function is_waiting(job) return job.state == 'waiting' or job.state == 'blocked' end

local function leave(job)
  local state = job.state
  if state == 'waiting' then
    local group = group_of(job.group)
    zset(group.ready, job.place or ready_place(job.run_at, job.id), false)
    if not job.place then zset(group.later, later_place(job.priority, job.id), false) end
    touched[group] = true
  elseif state == 'running' then
    zset(LEASES, job.id, false)
  elseif FINAL[state] then
    zset(final_place(state), job.id, false)
  end
  if job.expires_at and is_waiting(job) then zset(EXPIRING, job.id, false) end
  count(job, -1)
end

local function enter(job)
  local state = job.state
  if state == 'waiting' then
    local group = group_of(job.group)
    if job.run_at <= now then
      zset(group.ready, ready_place(job.run_at, job.id), -job.priority)
    else
      zset(group.later, later_place(job.priority, job.id), job.run_at)
    end
    touched[group] = true
    ready[group.queue] = true
  elseif state == 'running' then
    zset(LEASES, job.id, job.lease_expires)
  elseif FINAL[state] then
    zset(final_place(state), job.id, job.finished_at)
    finished = true
  end
  if job.expires_at and is_waiting(job) then zset(EXPIRING, job.id, job.expires_at) end
  count(job, 1)
end

-- Store a change that leaves a job where it stands.
local function amend(job) changed[job.id] = job end

-- Bring a job that has left its place into a state, with the times and counts that it has now.
local function arrive(job, state)
  local was_final = FINAL[job.state]
  job.state, job.place = state, nil
  enter(job)
  if job.unique_key and was_final ~= FINAL[state] then
    hset(UNIQUE, job.unique_key, not FINAL[state] and job.id)
  end
  amend(job)
end

-- Writing -------------------------------------------------------------------------------------------------------

local function pair_score(list, member, score)
  list[#list + 1] = score
  list[#list + 1] = member
end

local function pair_value(list, field, value)
  list[#list + 1] = field
  list[#list + 1] = value
end

local function single(list, member) list[#list + 1] = member end

-- Note which groups have something ready, and when the next job of each is due.
local function mind_groups()
  for group in pairs(touched) do
    local live, due = key('live', group.queue), key('due', group.queue)
    call(call('EXISTS', group.ready) == 1 and 'SADD' or 'SREM', live, group.number)
    local first = call('ZRANGE', group.later, 0, 0, 'WITHSCORES')[2]
    if first then
      call('ZADD', due, first, group.number)
    else
      call('ZREM', due, group.number)
    end
  end
end

-- A server that is full refuses what could make it fuller, unless the script has written something already. Finishes,
-- renewals and the like have to go on, and so begin with a write that does nothing.
local function insist()
  if not is_growing then
    call('DEL', ns .. ':nothing')
    is_growing = true
  end
end

local function flush()
  if not (next(changed) or next(hashes) or next(zsets) or next(sets)) then return end
  insist()
  if next(changed) then
    local records = hashes[JOBS] or {}
    hashes[JOBS] = records
    for id, job in pairs(changed) do records[id] = encode(job) end
  end
  remove_from(zsets, 'ZREM')
  remove_from(sets, 'SREM')
  remove_from(hashes, 'HDEL')
  add_to(hashes, 'HSET', pair_value)
  add_to(zsets, 'ZADD', pair_score)
  add_to(sets, 'SADD', single)
  for number, states in pairs(counted) do
    for state, by in pairs(states) do
      local field = state .. ' ' .. group_of(number).queue
      if by ~= 0 and call('HINCRBY', COUNTS, field, by) == 0 then call('HDEL', COUNTS, field) end
    end
  end
  mind_groups()
  hashes, zsets, sets, counted, touched, changed = {}, {}, {}, {}, {}, {}
end

-- Events --------------------------------------------------------------------------------------------------------

local events = {}

local function tell(word, job, ...)
  if listening then
    group_of(job.group)
    insert(events, { word, job.id, job.group, job.workflow or false, ... })
  end
end

local function as_set(list)
  if not list then return nil end
  local set = {}
  for _, item in ipairs(list) do set[item] = true end
  return set
end

-- What can be asked for. Most calls need one room of the house only, so each is furnished when it is needed: making
-- functions is what costs most in a small call. `shared` holds what one room lends to others.
local rooms, actions, shared = {}, {}, {}

local function enter_room(name)
  if rooms[name] then
    rooms[name]()
    rooms[name] = nil
  end
end
