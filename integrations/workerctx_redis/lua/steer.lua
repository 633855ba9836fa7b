-- What users and operators do to jobs, workflows and queues.

-- A user's word stands: what was cancelled is not given back because its queue is paused as well.
local function ask_to_stop(job, reason)
  if job.cancel ~= 'user' then
    job.cancel = reason
    amend(job)
  end
end

function actions.cancel(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if FINAL[job.state] then return { 'ended' } end
  if job.state == 'running' then
    ask_to_stop(job, 'user')
  else
    cancel(job, settings.by_user)
    settle({ job })
  end
  return { 'done' }
end

-- Cancel a workflow's jobs, and those to come. Return how many, or nothing if it is a crowd.
function actions.cancel_workflow(workflow, token)
  sset(STOPPED, workflow, true)
  local alive, all = stop_part(workflow, token, format('%.0f', now), false, '-')
  return all and alive
end

-- Return how many jobs of such a crowd were cancelled, and whether they were all.
function actions.stopped(token)
  local stopped = call('HMGET', key('stopped', token), 'jobs', 'all')
  return { tonumber(stopped[1]) or false, stopped[2] }
end

function actions.clear_workflow(workflow) sset(STOPPED, workflow, false) end

function actions.pause(queue, till, cancel_running)
  hset(PAUSES, queue, till and format('%.0f', till) or '')
  ready[queue] = true
  if cancel_running then
    local ids = call('ZRANGE', LEASES, 0, -1)
    load_all(ids)
    for _, id in ipairs(ids) do
      local job = load(id)
      if job and job.state == 'running' and group_of(job.group).queue == queue then
        ask_to_stop(job, 'queue_paused')
      end
    end
  end
end

function actions.resume(queue)
  hset(PAUSES, queue, false)
  ready[queue] = true
end

function actions.retry(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if job.state ~= 'dead' and job.state ~= 'cancelled' then return { 'state', state_now(job) } end
  if job.unique_key then
    local holder = hget(UNIQUE, job.unique_key)
    if holder then return { 'key', job.unique_key, holder } end
  end
  local waiting, seen = 0, {}
  for _, parent_id in ipairs(parents_of(job)) do
    local parent = not seen[parent_id] and load(parent_id)
    seen[parent_id] = true
    if parent then
      sset(key('children', parent_id), id, true)
      if not FINAL[parent.state] then
        waiting = waiting + 1
        zset(key('open', parent_id), id, 0)
      end
    end
  end
  hset(RESULTS, id, false)
  leave(job)
  job.attempt, job.deliveries, job.run_at = 0, 0, now
  job.claimed_at, job.finished_at, job.worker, job.lease, job.began, job.cancel = nil, nil, nil, nil, nil, nil
  job.parents = job.parents and waiting
  if job.expires_at and job.expires_at <= now then job.expires_at = nil end
  arrive(job, waiting > 0 and 'blocked' or 'waiting')
  if waiting == 0 then tell('ready', job) end
  return { 'done' }
end

-- Take a job out of every index; what waits for it has been told.
local function remove(job)
  leave(job)
  changed[job.id], jobs[job.id] = nil, false
  if job.unique_key then
    zset(key('keyed', job.unique_key), job.id, false)
    if not FINAL[job.state] then hset(UNIQUE, job.unique_key, false) end
  end
  zset(key('ids', job.group), job.id, false)
  if job.workflow then zset(key('workflow', job.workflow), job.id, false) end
  if job.tenant then zset(key('tenant', job.tenant), job.id, false) end
  for _, at in ipairs({ JOBS, PAYLOADS, OPTIONS, RESULTS, ERRORS, PROGRESS }) do hset(at, job.id, false) end
end

shared.remove = remove

function actions.delete(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if job.state == 'running' then return { 'state', job.state } end
  forget(job)
  settle({ { id = id, state = 'deleted' } })
  remove(job)
  flush()
  call('DEL', key('children', id))
  finished = true
  return { 'done' }
end

-- Remove jobs of a state that ended long ago, unless an unfinished one still waits for their outputs, and return how many.
-- A crowd of those is passed by in several calls: then the second answer is how many of them to pass over in the next.
function actions.prune(state, retention, limit, offset)
  local removed, looked = 0, 0
  while removed < limit do
    if looked >= settings.at_once then return { removed, offset } end
    local ids = call('ZRANGEBYSCORE', final_place(state), '-inf', '(' .. format('%.0f', now - retention),
      'LIMIT', offset, min(limit - removed, settings.at_once))
    if #ids == 0 then break end
    looked = looked + #ids
    load_all(ids)
    local any_awaited = count_of('children', ids) > 0
    for _, id in ipairs(ids) do
      if any_awaited and call('EXISTS', key('children', id)) == 1 then
        offset = offset + 1
      else
        remove(load(id))
        removed = removed + 1
      end
    end
    flush()
  end
  return { removed, false }
end
