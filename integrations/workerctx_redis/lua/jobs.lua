-- Jobs as they are loaded, where they stand, how changes of them are written, and who is told.

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
    job.lease, job.worker, job.began, job.claimed_at = some(r[9]), some(r[10]), some(r[11]), some(r[12])
    job.finished_at, job.cancel = some(r[13]), some(r[14])
    if r[15] ~= nil then
      job.parents, job.expires_at, job.unique_key = some(r[15]), some(r[16]), some(r[17])
      job.workflow, job.tenant = some(r[18]), some(r[19])
    end
  end
  return job
end

-- The stored form of a job: a JSON array that ends where nothing but nulls would follow.
local function encode(job)
  local rest = ''
  if job.parents or job.expires_at or job.unique_key or job.workflow or job.tenant then
    rest = ',' .. whole(job.parents) .. ',' .. whole(job.expires_at) .. ',' .. quoted(job.unique_key) .. ','
      .. quoted(job.workflow) .. ',' .. quoted(job.tenant)
  end
  if rest ~= '' or job.cancel then
    rest = ',' .. whole(job.finished_at) .. ',' .. quoted(job.cancel) .. rest
  elseif job.finished_at then
    rest = ',' .. digits[job.finished_at]
  end
  if rest ~= '' or job.claimed_at then
    rest = ',' .. quoted(job.lease) .. ',' .. quoted(job.worker) .. ',' .. whole(job.began) .. ','
      .. whole(job.claimed_at) .. rest
  end
  job.text = '["' .. job.state .. '",' .. digits[job.group] .. ',' .. digits[job.priority] .. ','
    .. digits[job.run_at] .. ',' .. digits[job.created_at] .. ',' .. digits[job.attempt] .. ','
    .. digits[job.max_attempts] .. ',' .. digits[job.deliveries] .. rest .. ']'
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
local moments = setmetatable({}, { __index = function(known, moment)
  local text = format('%018.0f', min(max(moment, 0), 9e17))
  known[moment] = text
  return text
end })
local function ready_place(run_at, id) return moments[run_at] .. id end
local function later_place(priority, id) return format('%010d', priority + 2147483648) .. id end

-- Whom to tell afterwards: who waits for jobs in these queues, or in any, and who waits for jobs to finish.
local ready, ready_anywhere, finished = {}, false, false

local function count(group, state, by)
  local states = counted[group]
  if not states then
    states = {}
    counted[group] = states
  end
  states[state] = (states[state] or 0) + by
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
    if not job.place then
      zset(group.later, later_place(job.priority, job.id), false)
      touched_later[group] = true
    end
    touched[group] = true
  elseif state == 'running' then
    zset(LEASES, job.id, false)
  elseif FINAL[state] then
    zset(final_place(state), job.id, false)
  end
  if job.expires_at and is_waiting(job) then zset(EXPIRING, job.id, false) end
  count(job.group, state, -1)
end

local function enter(job)
  local state = job.state
  if state == 'waiting' then
    local group = group_of(job.group)
    if job.run_at <= now then
      zset(group.ready, ready_place(job.run_at, job.id), -job.priority)
      touched[group] = true
    else
      zset(group.later, later_place(job.priority, job.id), job.run_at)
      touched_later[group] = true
    end
    ready[group.queue] = true
  elseif state == 'running' then
    zset(LEASES, job.id, job.lease_expires)
  elseif FINAL[state] then
    zset(final_place(state), job.id, job.finished_at)
    finished = true
  end
  if job.expires_at and is_waiting(job) then zset(EXPIRING, job.id, job.expires_at) end
  count(job.group, state, 1)
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

local function add_records()
  local added = {}
  for id, job in pairs(changed) do pair_value(added, id, encode(job)) end
  in_chunks('HSET', JOBS, added)
end

-- Note which groups have something ready, and when the next job of each is due.
local function mind_groups()
  for group in pairs(touched) do
    call(call('EXISTS', group.ready) == 1 and 'SADD' or 'SREM', key('live', group.queue), group.number)
  end
  for group in pairs(touched_later) do
    local due = key('due', group.queue)
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
  if not (next(changed) or next(hashes) or next(zsets) or next(sets) or next(counted)) then return end
  insist()
  local add_members = removing(zsets, 'ZREM', 'ZADD', pair_score)
  local add_items = removing(sets, 'SREM', 'SADD', single)
  local add_fields = removing(hashes, 'HDEL', 'HSET', pair_value)
  add_records()
  add_fields()
  add_members()
  add_items()
  for number, states in pairs(counted) do
    for state, by in pairs(states) do
      local field = state .. ' ' .. group_of(number).queue
      if by ~= 0 and call('HINCRBY', COUNTS, field, by) == 0 then call('HDEL', COUNTS, field) end
    end
  end
  mind_groups()
  hashes, zsets, sets, counted, changed = {}, {}, {}, {}, {}
  touched, touched_later = {}, {}
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
-- functions is what costs most in a small call, and that is why a script has only the rooms that its calls may need.
-- `shared` holds what one room lends to others.
local rooms, actions, shared = {}, {}, {}

local function enter_room(name)
  if rooms[name] then
    rooms[name]()
    rooms[name] = nil
  end
end
