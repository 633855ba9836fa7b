-- Looking at jobs.

local function show(ids)
  load_all(ids)
  return shown(ids)
end

function actions.get(id)
  if not load(id) then return false end
  return show({ id })
end

function actions.is_cancelled(id)
  local job = load(id)
  if not job then return { 'missing' } end
  return { 'found', job.state == 'cancelled' or (job.state == 'running' and job.cancel == 'user') }
end

local function all_groups()
  local found, texts = {}, call('HGETALL', NAMES)
  for index = 1, #texts, 2 do
    local number = tonumber(texts[index])
    insert(found, groups[number] or as_group(number, texts[index + 1]))
  end
  return found
end

shared.all_groups = all_groups

-- The sets of ids, in their order, in which every job that matches is to be found.
local function sources(wanted)
  if wanted.unique_key then return { key('keyed', wanted.unique_key) } end
  if wanted.workflow_id then return { key('workflow', wanted.workflow_id) } end
  if wanted.tenant_id then return { key('tenant', wanted.tenant_id) } end
  local found = {}
  for _, group in ipairs(all_groups()) do
    if (not wanted.kind or group.kind == wanted.kind) and (not wanted.queue or group.queue == wanted.queue) then
      insert(found, key('ids', group.number))
    end
  end
  return found
end

-- The ids of the jobs in a state, if these are few.
local function few(state)
  local at = state == 'running' and LEASES or FINAL[state] and key('final', state)
  if at and call('ZCARD', at) <= settings.at_once then return call('ZRANGE', at, 0, -1) end
end

-- Sorted sets compare ids byte by byte, and scripts in the way of the server's language. Digits are the same in each.
local bytes = setmetatable({}, { __index = function(known, char)
  local text = format('%03d', string.byte(char))
  known[char] = text
  return text
end })
local function place_of(id) return (string.gsub(id, '.', bytes)) end

-- Ids of several sets in the order of one, those behind a cursor.
local function in_order(ids, cursor)
  local places, found, from = {}, {}, place_of(cursor)
  for _, id in ipairs(ids) do
    local place = place_of(id)
    if place > from then
      insert(places, place)
      found[place] = id
    end
  end
  table.sort(places)
  for index, place in ipairs(places) do places[index] = found[place] end
  return places
end

local function ids_after(wanted, cursor, most)
  local handful = wanted.state and few(wanted.state)
  if handful then return in_order(handful, cursor), true end
  local from = cursor == '' and '-' or '(' .. cursor
  local found, complete, several = {}, true, sources(wanted)
  for _, at in ipairs(several) do
    local ids = call('ZRANGEBYLEX', at, from, '+', 'LIMIT', 0, most)
    complete = complete and #ids < most
    for _, id in ipairs(ids) do insert(found, id) end
  end
  if #several > 1 then found = in_order(found, cursor) end
  -- Of a longer source only the first were read, so nothing behind its last one is known to follow.
  for index = #found, most + 1, -1 do found[index] = nil end
  return found, complete and #found < most
end

local function matches(job, wanted)
  local group = group_of(job.group)
  return (not wanted.state or state_now(job) == wanted.state)
    and (not wanted.kind or group.kind == wanted.kind)
    and (not wanted.queue or group.queue == wanted.queue)
    and (not wanted.tenant_id or job.tenant == wanted.tenant_id)
    and (not wanted.workflow_id or job.workflow == wanted.workflow_id)
    and (not wanted.unique_key or job.unique_key == wanted.unique_key)
end

-- A part of a listing: up to `limit` matches, and where to go on, or false at the end.
function actions.page(wanted, cursor, limit)
  local ids, complete = ids_after(wanted, cursor, max(limit, settings.at_once))
  local found, last = {}, false
  load_all(ids)
  for _, id in ipairs(ids) do
    last = id
    if matches(load(id), wanted) then insert(found, id) end
    if #found >= limit then break end
  end
  local ended = complete and last == (ids[#ids] or false)
  return { show(found), not ended and last }
end

-- Every count: state, queue, number.
function actions.counts()
  local rows, waiting = {}, {}
  local fields = call('HGETALL', COUNTS)
  for index = 1, #fields, 2 do
    local state, queue = string.match(fields[index], '^(%S+) (.*)$')
    local number = tonumber(fields[index + 1])
    if state == 'waiting' then
      local later = 0
      for _, group in ipairs(call('ZRANGE', key('due', queue), 0, -1)) do
        later = later + call('ZCOUNT', key('later', group), '(' .. format('%.0f', now), '+inf')
      end
      insert(rows, { 'queued', queue, number - later })
      insert(rows, { 'scheduled', queue, later })
    else
      insert(rows, { state, queue, number })
    end
  end
  return rows
end

function actions.pauses()
  local rows, fields = {}, call('HGETALL', PAUSES)
  for index = 1, #fields, 2 do
    local till = fields[index + 1]
    if till == '' or tonumber(till) > now then insert(rows, { fields[index], tonumber(till) or false }) end
  end
  return rows
end

-- The moment at which the next job of some queues is due, or a pause of one ends; false if there is none.
function actions.next_due(queues)
  local wanted, first = as_set(queues), nil
  for _, row in ipairs(actions.pauses()) do
    if row[2] and (not wanted or wanted[row[1]]) then first = min(first or row[2], row[2]) end
  end
  if not queues then
    local seen = {}
    for _, field in ipairs(call('HKEYS', COUNTS)) do
      local queue = string.match(field, '^waiting (.*)$')
      if queue then insert(seen, queue) end
    end
    queues = seen
  end
  for _, queue in ipairs(queues) do
    for _, group in ipairs(call('ZRANGE', key('due', queue), 0, -1)) do
      local due = call('ZRANGEBYSCORE', key('later', group), '(' .. format('%.0f', now), '+inf',
        'WITHSCORES', 'LIMIT', 0, 1)[2]
      if due then first = min(first or tonumber(due), tonumber(due)) end
    end
  end
  return first or false
end

function actions.queues() return { actions.counts(), actions.pauses() } end
