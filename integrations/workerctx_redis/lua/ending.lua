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
  for _, parent in ipairs(parents_of(job)) do
    zset(key('open', parent), job.id, false)
    sset(key('children', parent), job.id, false)
  end
end

local function end_as(job, state)
  forget(job)
  move(job, state, function() job.finished_at, job.lease, job.began, job.cancel = now, nil, nil, nil end)
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
  move(job, 'waiting', function()
    job.run_at, job.lease, job.worker, job.began, job.cancel = run_at, nil, nil, nil, nil
  end)
end

-- Let the jobs that wait for these go on, or cancel them, generation after generation. A crowd is dealt with in
-- several calls: what is left over is written down and comes first in the next one.
local function settle(ends)
  local room, index = settings.at_once, 1
  while ends[index] do
    local parent, word = ends[index][1], ends[index][2]
    local open = key('open', parent)
    local children = room > 0 and call('ZRANGE', open, 0, room - 1) or {}
    load_all(children)
    for _, id in ipairs(children) do
      zset(open, id, false)
      local child = load(id)
      if child and child.state == 'blocked' then
        if word ~= 'succeeded' and options_of(child).on_parent_failure ~= 'run' then
          cancel(child, format("job '%s', which it depends on, is %s", parent, word))
          insert(ends, { id, 'cancelled' })
        else
          child.parents = child.parents - 1
          if child.parents <= 0 then
            move(child, 'waiting', function() child.run_at = max(child.run_at, now) end)
            tell('ready', child)
          else
            amend(child)
          end
        end
      end
    end
    room = room - #children
    if call('ZCARD', open) > #children then call('RPUSH', SETTLING, cjson.encode({ parent, word })) end
    index = index + 1
  end
end

-- Deal with a part of what earlier calls left over.
function actions.settle()
  local ends = {}
  for _ = 1, 10 do
    local text = call('LPOP', SETTLING)
    if not text then break end
    insert(ends, cjson.decode(text))
  end
  settle(ends)
end

local function end_of(job) return { job.id, job.state } end

-- Cancel jobs whose time to run by has passed.
local function cancel_expired(ends)
  local late = call('ZRANGEBYSCORE', EXPIRING, '-inf', now, 'LIMIT', 0, settings.at_once)
  load_all(late)
  for _, id in ipairs(late) do
    local job = load(id)
    if job and is_waiting(job) then
      cancel(job, 'expired')
      insert(ends, end_of(job))
    end
  end
end
