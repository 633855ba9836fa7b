-- Adding jobs: everything is looked at before anything is noted.

local function refusal(jobs_to_add)
  local batch = {}
  for _, new in ipairs(jobs_to_add) do
    for _, parent in ipairs(new.depends_on or {}) do
      if not batch[parent] and not load(parent) then return { 'parent', parent } end
    end
    if new.chosen then
      if batch[new.id] or load(new.id) then return { 'taken', new.id } end
      batch[new.id] = true
    end
  end
end

-- Say for whom a job waits and whether it can at all.
local function attach(job, parents, tolerant)
  local waiting, reason = 0, nil
  for _, id in ipairs(parents) do
    local parent = load(id)
    if not FINAL[parent.state] then
      waiting = waiting + 1
      zset(key('open', id), job.id, 0)
    elseif parent.state ~= 'succeeded' and not tolerant then
      reason = reason or format("job '%s', which it depends on, is %s", id, parent.state)
    end
    sset(key('children', id), job.id, true)
  end
  return waiting, reason
end

local function add(new, group, renamed)
  if new.unique_key then
    local holder = hget(UNIQUE, new.unique_key)
    if holder then
      if new.chosen then renamed[new.id] = holder end
      return { holder, true }
    end
  end
  local job = {
    id = new.id, state = 'waiting', group = group, priority = new.priority,
    run_at = new.run_at or now + new.delay, created_at = now, attempt = 0, max_attempts = new.max_attempts,
    deliveries = 0, expires_at = new.expires_at, unique_key = new.unique_key, workflow = new.workflow,
    tenant = new.tenant, options = new.options or false,
  }
  jobs[job.id] = job
  local reason
  if new.depends_on then
    local parents, seen = {}, {}
    for _, id in ipairs(new.depends_on) do
      id = renamed[id] or id
      if not seen[id] then insert(parents, id) end
      seen[id] = true
    end
    job.parents, reason = attach(job, parents, new.tolerant)
    if next(renamed) then
      local options = cjson.decode(job.options)
      options.depends_on = parents
      job.options = cjson.encode(options)
    end
    if job.parents > 0 then job.state = 'blocked' end
  end
  hset(PAYLOADS, job.id, new.payload)
  if job.options then hset(OPTIONS, job.id, job.options) end
  zset(key('ids', group), job.id, 0)
  if job.workflow then
    zset(key('workflow', job.workflow), job.id, 0)
    if call('SISMEMBER', STOPPED, job.workflow) == 1 then
      reason = format("workflow '%s' was cancelled", job.workflow)
    end
  end
  if job.tenant then zset(key('tenant', job.tenant), job.id, 0) end
  if job.unique_key then
    zset(key('keyed', job.unique_key), job.id, 0)
    hset(UNIQUE, job.unique_key, job.id)
  end
  enter(job)
  amend(job)
  if reason then
    cancel(job, reason)
  elseif job.state == 'waiting' then
    tell('ready', job)
  end
  return { job.id, false }
end

local FIELDS = {
  'id', 'group', 'payload', 'options', 'priority', 'run_at', 'delay', 'max_attempts', 'expires_at', 'unique_key',
  'workflow', 'tenant', 'chosen',
}

local function as_new(row)
  local new = {}
  for index, name in ipairs(FIELDS) do new[name] = row[index] end
  if new.options then
    local options = cjson.decode(new.options)
    new.depends_on, new.tolerant = options.depends_on, options.on_parent_failure == 'run'
  end
  return new
end

-- Add jobs that are due at once and have nothing but options about them, in runs of those that are alike: they go the
-- straight way, without tables of their own.
local function add_plain(numbers, runs)
  local records, payloads, options = {}, {}, {}
  for _, run in ipairs(runs) do
    local place, priority, max_attempts, ids, stored, more = unpack(run, 1, 6)
    local group, members, places = group_of(numbers[place]), {}, {}
    local record = encode({
      state = 'waiting', group = group.number, priority = priority, run_at = now, created_at = now, attempt = 0,
      max_attempts = max_attempts, deliveries = 0,
    })
    for index, id in ipairs(ids) do
      pair_value(records, id, record)
      pair_value(payloads, id, stored[index])
      if more[index] then pair_value(options, id, more[index]) end
      pair_score(members, id, 0)
      pair_score(places, ready_place(now, id), 0 - priority)
      if listening then tell('ready', { id = id, group = group.number }) end
    end
    in_chunks('ZADD', key('ids', group.number), members)
    in_chunks('ZADD', group.ready, places)
    touched[group], ready[group.queue] = true, true
    count(group.number, 'waiting', #ids)
  end
  in_chunks('HSET', JOBS, records)
  in_chunks('HSET', PAYLOADS, payloads)
  in_chunks('HSET', OPTIONS, options)
end

local function add_all(texts, rows, plain)
  local to_add, numbers, outcomes, renamed = {}, {}, {}, {}
  for index, row in ipairs(rows) do to_add[index] = as_new(row) end
  local refused = refusal(to_add)
  if refused then return refused end
  for index, text in ipairs(texts) do numbers[index] = group_named(text) end
  for index, new in ipairs(to_add) do outcomes[index] = add(new, numbers[new.group], renamed) end
  if plain then add_plain(numbers, plain) end
  return { 'added', outcomes }
end

actions.enqueue, shared.add_all = add_all, add_all

-- A large batch comes in parts, kept under a key of its own until the last one.
function actions.stage(token, texts, rows, plain)
  local at = key('stage', token)
  call('RPUSH', at, cmsgpack.pack({ texts, rows, plain }))
  call('EXPIRE', at, settings.staged_for)
end

function actions.unstage(token) call('DEL', key('stage', token)) end

function actions.publish(token, parts)
  local at = key('stage', token)
  local staged = call('LRANGE', at, 0, -1)
  if #staged ~= parts then return { 'gone' } end
  local texts, rows, plain = {}, {}, {}
  for _, part in ipairs(staged) do
    local content = cmsgpack.unpack(part)
    local offset = #texts
    for _, text in ipairs(content[1]) do insert(texts, text) end
    for _, row in ipairs(content[2]) do
      row[2] = row[2] + offset
      insert(rows, row)
    end
    for _, run in ipairs(content[3]) do
      run[1] = run[1] + offset
      insert(plain, run)
    end
  end
  local outcome = add_all(texts, rows, plain)
  flush()
  call('DEL', at)
  return outcome
end
