-- How jobs end, and what that means for the jobs that wait for them.

local function error_text(kind, message) return cjson.encode({ kind = kind, message = message }) end

-- Add a failure, given as JSON, to those that a job remembers: one line each, the newest ones.
local function remember(job, error)
  local lines = {}
  for line in string.gmatch(hget(ERRORS, job.id) or '', '[^\n]+') do lines[#lines + 1] = line end
  lines[#lines + 1] = format('{"attempt":%d,"at":%.6f,"error":%s}', job.attempt, now / 1000000, error)
  hset(ERRORS, job.id, table.concat(lines, '\n', max(#lines - settings.error_history, 0) + 1))
end

-- The job waits for nobody any more.
local function forget(job)
  if not job.parents then return end
  for _, parent in ipairs(parents_of(job)) do
    zset(key('open', parent), job.id, false)
    sset(key('children', parent), job.id, false)
  end
end

local function end_as(job, state)
  forget(job)
  leave(job)
  job.finished_at, job.lease, job.began, job.cancel = now, nil, nil, nil
  arrive(job, state)
end

local function cancel(job, reason)
  remember(job, error_text('cancelled', reason))
  end_as(job, 'cancelled')
  tell('cancelled', job, reason)
end

local function die(job, error)
  remember(job, error)
  end_as(job, 'dead')
  tell('failed', job, error, job.attempt, false)
end

local function wait_until(job, run_at)
  leave(job)
  job.run_at, job.lease, job.worker, job.began, job.cancel = run_at, nil, nil, nil, nil
  arrive(job, 'waiting')
end

-- How many jobs have a key of this name.
local function count_of(name, ids)
  local total, start = 0, key(name, '')
  for first = 1, #ids, CHUNK do
    local keys = {}
    for index = first, min(first + CHUNK - 1, #ids) do keys[index - first + 1] = start .. ids[index] end
    total = total + call('EXISTS', unpack(keys))
  end
  return total
end

-- Let the jobs that wait for these, each with its id and state, go on, or cancel them, generation after generation. A
-- crowd is dealt with in several calls: what is left over is written down and comes first in the next one. Who wants
-- to tell of all that are cancelled, with the reasons, passes a list for them, and then nothing is left over.
local function settle(ends, told)
  local room, index, ids = told and 2 ^ 31 or settings.at_once, 1, {}
  for place, job in ipairs(ends) do ids[place] = job.id end
  if #ids == 0 or count_of('open', ids) == 0 then return end
  while ends[index] do
    local parent, word = ends[index].id, ends[index].state
    local open = key('open', parent)
    local children = room > 0 and call('ZRANGE', open, 0, room - 1) or {}
    load_all(children)
    for _, id in ipairs(children) do
      zset(open, id, false)
      local child = load(id)
      if child and child.state == 'blocked' then
        if word ~= 'succeeded' and options_of(child).on_parent_failure ~= 'run' then
          local reason = format("job '%s', which it depends on, is %s", parent, word)
          cancel(child, reason)
          insert(ends, child)
          if told then insert(told, { id, reason }) end
        else
          child.parents = child.parents - 1
          if child.parents <= 0 then
            leave(child)
            child.run_at = max(child.run_at, now)
            arrive(child, 'waiting')
            tell('ready', child)
          else
            amend(child)
          end
        end
      end
    end
    room = room - #children
    if call('ZCARD', open) > #children then
      insist()
      call('RPUSH', SETTLING, cjson.encode({ parent, word }))
    end
    index = index + 1
  end
end

-- Cancel a part of the jobs that a workflow had when it was stopped, those behind a cursor, and return how many, and
-- whether they were all. If not, the next part is written down, and what has become of them under a token. Who waits
-- for them is told in a second round, as most of those are among them.
local function stop_part(workflow, token, at, telling, cursor)
  local ids = call('ZRANGEBYLEX', key('workflow', workflow), cursor, '+', 'LIMIT', 0, settings.at_once)
  local alive, ends = 0, {}
  load_all(ids)
  for _, id in ipairs(ids) do
    local job = load(id)
    if job and telling then
      if job.state == 'cancelled' then insert(ends, job) end
    elseif job and not FINAL[job.state] and job.created_at <= tonumber(at) then
      alive = alive + 1
      if job.state == 'running' then
        job.cancel = 'user'
        amend(job)
      else
        cancel(job, format("workflow '%s' was cancelled", workflow))
        insert(ends, job)
      end
    end
  end
  local more = #ids >= settings.at_once
  local is_whole = cursor == '-' and not more and not telling
  if telling or is_whole then settle(ends) end
  if is_whole then return alive, true end
  insist()
  if not telling then
    local stopped = key('stopped', token)
    call('HINCRBY', stopped, 'jobs', alive)
    if not more then call('HSET', stopped, 'all', 1) end
    call('EXPIRE', stopped, settings.staged_for)
  end
  if more or not telling then
    local rest = { workflow, token, at, telling or not more, more and '(' .. ids[#ids] or '-' }
    call('RPUSH', SETTLING, cjson.encode(rest))
  end
  return alive, false
end

-- Deal with a part of what earlier calls left over.
local function settle_rest()
  local ends = {}
  for _ = 1, 10 do
    local text = call('LPOP', SETTLING)
    if not text then break end
    local rest = cjson.decode(text)
    if #rest > 2 then
      stop_part(unpack(rest))
      break
    end
    insert(ends, { id = rest[1], state = rest[2] })
  end
  settle(ends)
end

-- Cancel jobs whose time to run by has passed.
local function cancel_expired(ends)
  local late = call('ZRANGEBYSCORE', EXPIRING, '-inf', now, 'LIMIT', 0, settings.at_once)
  load_all(late)
  for _, id in ipairs(late) do
    local job = load(id)
    if job and is_waiting(job) then
      cancel(job, 'expired')
      insert(ends, job)
    end
  end
  return #late
end

-- Rate limits -------------------------------------------------------------------------------------------------

local LIMITS = ns .. ':limits'

local function drain(scope, retry_after)
  local text = call('HGET', LIMITS, scope)
  if not text then return false end
  insist()
  local capacity, per, tat, closed = unpack(cjson.decode(text))
  local opens = now + retry_after
  local target = opens + floor(per * 1000000 * (capacity - 1) / capacity)
  tat, closed = max(tat, target), max(closed or 0, opens)
  call('HSET', LIMITS, scope, format('[%d,%.17g,%.0f,%.0f]', capacity, per, tat, closed))
  return true
end

-- Showing jobs -----------------------------------------------------------------------------------------------

-- The results of the jobs that this one depends on.
local function upstream(job)
  local outputs, parents = {}, parents_of(job)
  load_all(parents)
  for _, id in ipairs(parents) do
    local parent = load(id)
    if parent and parent.state == 'succeeded' then insert(outputs, { id, hget(RESULTS, id) or 'null' }) end
  end
  return outputs
end

-- Jobs as they are handed to a caller, in columns; their records must have been written. Of claimed ones, `records` are
-- known of those that nothing else has to be told of; and none has a result.
local function shown(ids, records)
  local texts, upstreams, options = {}, {}, hmget(OPTIONS, ids)
  for index, id in ipairs(ids) do
    local text, outputs = records and records[index], false
    if not text then
      local job = jobs[id]
      group_of(job.group)
      text, job.options = job.text, options[index]
      outputs = job.parents and upstream(job) or false
    end
    texts[index], upstreams[index] = text, outputs
  end
  local columns = { ids, texts, hmget(PAYLOADS, ids), options, hmget(ERRORS, ids), hmget(PROGRESS, ids), upstreams }
  if not records then insert(columns, hmget(RESULTS, ids)) end
  return columns
end
