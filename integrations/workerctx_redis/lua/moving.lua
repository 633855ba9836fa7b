-- Moving from and to another store.

enter_room('steer')
enter_room('look')
enter_room('companions')

local OUTBOX, RECEIVED = ns .. ':outbox', ns .. ':received'

function actions.identity(fresh)
  local at = ns .. ':meta'
  call('HSETNX', at, 'id', fresh)
  return call('HGET', at, 'id')
end

-- Out ---------------------------------------------------------------------------------------------------------

-- A job with those it depends on and the unfinished ones that depend on it, and theirs; whether none is to stay.
local function family_of(id, staying)
  local found, ids, index, free = { [id] = true }, { id }, 1, true
  while ids[index] do
    local job = load(ids[index])
    if job.state == 'running' or staying[job.id] then free = false end
    for _, relatives in ipairs({ parents_of(job), call('SMEMBERS', key('children', job.id)) }) do
      for _, name in ipairs(relatives) do
        if not found[name] and load(name) then
          found[name] = true
          insert(ids, name)
        end
      end
    end
    index = index + 1
  end
  return ids, free
end

-- The sorted sets whose jobs could go, and where in a member the id begins; those that are blocked are found by
-- those that they wait for.
local function sources(history)
  local found = {}
  for _, group in ipairs(shared.all_groups()) do
    insert(found, { key('ready', group.number), 19 })
    insert(found, { key('later', group.number), 11 })
  end
  for _, state in ipairs(history and { 'dead', 'succeeded', 'cancelled' } or { 'dead' }) do
    insert(found, { key('final', state), 1 })
  end
  return found
end

local function leaving(limit, bytes, history)
  local list, chosen, staying, size = {}, {}, {}, 0
  for _, source in ipairs(sources(history)) do
    local offset, ended = 0, false
    while not ended and #list < limit and size < bytes do
      local members = call('ZRANGE', source[1], offset, offset + limit - 1)
      local ids = {}
      for index, member in ipairs(members) do ids[index] = string.sub(member, source[2]) end
      load_all(ids)
      for _, id in ipairs(ids) do
        if #list >= limit or size >= bytes then break end
        if not chosen[id] and not staying[id] then
          local family, free = family_of(id, staying)
          for _, name in ipairs(family) do
            if not free then
              staying[name] = true
            elseif not chosen[name] then
              chosen[name] = true
              insert(list, name)
              size = size + call('HSTRLEN', PAYLOADS, name) + call('HSTRLEN', RESULTS, name)
            end
          end
        end
      end
      offset, ended = offset + #members, #members < limit
    end
  end
  return list
end

local function job_entries(ids)
  local payloads, options = hmget(PAYLOADS, ids), hmget(OPTIONS, ids)
  local results, errors, progress = hmget(RESULTS, ids), hmget(ERRORS, ids), hmget(PROGRESS, ids)
  local entries = {}
  for index, id in ipairs(ids) do
    local job = load(id)
    entries[index] = cjson.encode({
      'job', id, job.text, group_of(job.group).text, payloads[index] or '', options[index] or '',
      errors[index] or '', progress[index] or '', results[index] or '',
    })
  end
  return entries
end

-- Fill the outbox if it is empty, and return what is in it.
function actions.take_out(batch, target, limit, bytes, history)
  local waiting = call('LRANGE', OUTBOX, 0, -1)
  if #waiting > 0 then return waiting end
  -- As long as the end of some jobs is not known to all that wait for them, nobody leaves.
  if call('LLEN', SETTLING) > 0 then return {} end
  local ids = leaving(limit, bytes, history)
  local entries, schedules = job_entries(ids), actions.schedules()
  for _, row in ipairs(schedules) do
    insert(entries, cjson.encode({ 'schedule', row[1], row[2], row[3], whole(row[4]), whole(row[5]) }))
  end
  if #entries == 0 then return {} end
  insert(entries, 1, cjson.encode({ 'batch', batch, target }))
  for _, id in ipairs(ids) do forget(load(id)) end
  for _, id in ipairs(ids) do shared.remove(load(id)) end
  in_chunks('RPUSH', OUTBOX, entries)
  for _, row in ipairs(schedules) do actions.delete_schedule(row[1]) end
  flush()
  finished = finished or #ids > 0
  return entries
end

function actions.outbox() return call('LRANGE', OUTBOX, 0, -1) end

function actions.clear_out(batch)
  local first = call('LINDEX', OUTBOX, 0)
  if first and cjson.decode(first)[2] == batch then call('DEL', OUTBOX) end
end

-- In ----------------------------------------------------------------------------------------------------------

local FIELDS = {
  'id', 'group', 'payload', 'options', 'state', 'priority', 'run_at', 'created_at', 'attempt', 'max_attempts',
  'deliveries', 'expires_at', 'unique_key', 'workflow', 'tenant', 'worker', 'claimed_at', 'finished_at', 'errors',
  'progress', 'result',
}

local function why_not(job)
  if job.workflow and call('SISMEMBER', STOPPED, job.workflow) == 1 then
    return format("workflow '%s' was cancelled", job.workflow)
  end
  local holder = job.unique_key and hget(UNIQUE, job.unique_key)
  if holder then
    return format("its unique key '%s' was held by job '%s' when it was moved here", job.unique_key, holder)
  end
end

-- Tie a live job to those that it depends on; return how many of them are unfinished.
local function tie(job, unfinished)
  local waiting, seen = 0, {}
  for _, id in ipairs(options_of(job).depends_on or {}) do
    local parent = not seen[id] and load(id)
    seen[id] = true
    if parent then
      sset(key('children', id), job.id, true)
      if unfinished[id] or not FINAL[parent.state] then
        waiting = waiting + 1
        zset(key('open', id), job.id, 0)
      end
    end
  end
  return waiting
end

local function keep(job, row)
  hset(PAYLOADS, job.id, row.payload)
  if row.options then hset(OPTIONS, job.id, row.options) end
  if row.errors then hset(ERRORS, job.id, row.errors) end
  if row.progress then hset(PROGRESS, job.id, row.progress) end
  if row.result then hset(RESULTS, job.id, row.result) end
  zset(key('ids', job.group), job.id, 0)
  if job.workflow then zset(key('workflow', job.workflow), job.id, 0) end
  if job.tenant then zset(key('tenant', job.tenant), job.id, 0) end
  if job.unique_key then zset(key('keyed', job.unique_key), job.id, 0) end
end

-- Add a job as it is, or cancelled with the reason that is returned.
local function settle_in(job, row, unfinished)
  local reason = not FINAL[job.state] and why_not(job) or nil
  local depends = options_of(job).depends_on ~= nil
  if depends then job.parents = FINAL[job.state] and 0 or tie(job, unfinished) end
  keep(job, row)
  if reason then
    job.state, job.finished_at = 'cancelled', now
    remember(job, error_text('cancelled', reason))
    forget(job)
  elseif not FINAL[job.state] then
    job.state = depends and job.parents > 0 and 'blocked' or 'waiting'
    if job.unique_key then hset(UNIQUE, job.unique_key, job.id) end
  end
  enter(job)
  amend(job)
  if reason then
    tell('cancelled', job, reason)
  elseif job.state == 'waiting' then
    tell('ready', job)
  end
  return reason
end

-- Add a schedule, or go on with the earliest tick that has fired on neither side.
local function join_schedule(name, definition, timing, enabled, due, last)
  local old = shared.schedule(name)
  if not old then
    shared.define(name, definition, timing)
    shared.set_times(name, enabled, due, last)
    return
  end
  local following = old[4] or nil
  last = max(old[5] or -1, last or -1)
  if old[3] and enabled and old[6] == timing then
    for _, tick in ipairs({ due or -1, following or -1 }) do
      if tick > last and (not following or tick < following or following <= last) then following = tick end
    end
  end
  shared.set_times(name, old[3], following, last >= 0 and last)
end

function actions.put_in(batch, texts, rows, schedules)
  if call('SISMEMBER', RECEIVED, batch) == 1 then return { 'again' } end
  local numbers, list, taken, unfinished = {}, {}, {}, {}
  for index, row in ipairs(rows) do
    local named_row = {}
    for place, name in ipairs(FIELDS) do named_row[name] = row[place] end
    list[index] = named_row
    if load(named_row.id) then insert(taken, named_row.id) end
  end
  if #taken > 0 then return { 'taken', taken } end
  for index, text in ipairs(texts) do numbers[index] = group_named(text) end
  for _, row in ipairs(list) do
    local job = { group = numbers[row.group], options = row.options or false }
    for _, name in ipairs(FIELDS) do job[name] = job[name] == nil and row[name] or job[name] end
    jobs[job.id] = job
    unfinished[job.id] = not FINAL[job.state] or nil
  end
  local cancelled, ends = {}, {}
  for _, row in ipairs(list) do
    local reason = settle_in(jobs[row.id], row, unfinished)
    if reason then
      insert(cancelled, { row.id, reason })
      insert(ends, jobs[row.id])
    end
  end
  sset(RECEIVED, batch, true)
  flush()
  for _, each in ipairs(schedules) do join_schedule(unpack(each, 1, 6)) end
  settle(ends, cancelled)
  return { 'added', cancelled }
end

-- What holds on both sides ------------------------------------------------------------------------------------

function actions.settings()
  return { call('HGETALL', LIMITS), actions.pauses(), call('SMEMBERS', STOPPED) }
end

function actions.adopt(limits, pauses)
  for _, limit in ipairs(limits) do shared.adopt_limit(unpack(limit)) end
  for _, pause in ipairs(pauses) do
    local queue, till = pause[1], pause[2]
    -- Of two pauses the longer one holds; one without end is stored as ''.
    local known = hget(PAUSES, queue)
    if known then till = till and tonumber(known) and max(till, tonumber(known)) end
    actions.pause(queue, till)
  end
end
