-- Ending runs: finishes of every kind, renewals, and leases that ran out.

-- The job that a lease holds, or nil.
local function held(id, token)
  local job = load(id)
  if job and job.state == 'running' and job.lease == token then return job end
end

-- Leases come as runs of those that share a token: the token and the ids of the jobs; finishes also with the way in
-- which they end, and columns for the details of it.
local function load_runs(runs)
  for _, run in ipairs(runs) do load_all(run[2]) end
end

local function begin(runs)
  load_runs(runs)
  for _, run in ipairs(runs) do
    for _, id in ipairs(run[2]) do
      local job = held(id, run[1])
      if job and not job.began then
        job.began, job.attempt = 1, job.attempt + 1
        amend(job)
      end
    end
  end
end

local function full_delay(policy, retry)
  local delay = policy.base
  if policy.backoff == 'linear' then
    delay = min(policy.cap, policy.base * max(retry, 1))
  elseif policy.backoff == 'exponential' then
    delay = min(policy.cap, policy.base * 2 ^ min(max(retry, 1) - 1, 64))
  end
  return policy.jitter and delay * math.random() or delay
end

local function fail(job, error, retryable, delay)
  if job.cancel == 'user' then
    remember(job, error)
    cancel(job, settings.by_user)
  elseif not retryable or job.attempt >= job.max_attempts then
    die(job, error)
  else
    remember(job, error)
    delay = delay or floor(full_delay(options_of(job).retry or settings.retry, job.attempt) * 1000000 + 0.5)
    wait_until(job, now + delay)
    tell('failed', job, error, job.attempt, true, job.run_at)
  end
end

local function give_back(job, run_at)
  if job.cancel == 'user' then return cancel(job, settings.by_user) end
  job.attempt = job.attempt - (job.began or 0)
  job.deliveries = job.deliveries - 1
  wait_until(job, run_at)
  tell('snoozed', job, run_at)
end

local finishes = {}

function finishes.complete(job, outputs)
  if not job.began then job.attempt = job.attempt + 1 end
  if outputs ~= 'null' then hset(RESULTS, job.id, outputs) end
  end_as(job, 'succeeded')
  tell('completed', job, outputs)
end

function finishes.fail(job, error, retryable, delay)
  if not job.began then job.attempt = job.attempt + 1 end
  fail(job, error, retryable, delay)
end

function finishes.release(job) give_back(job, job.run_at) end

function finishes.snooze(job, delay) give_back(job, now + delay) end

function finishes.throttle(job, retry_after, scope)
  if scope and not drain(scope, retry_after) then return 'scope' end
  give_back(job, now + retry_after)
end

-- Most runs complete jobs that have nothing about them that their end minds. They go the straight way, as in a claim,
-- unless the call has changed them already. Returns which places of the list are done with, and the ids there.
local RUNNING = '^%["running",(%d+),(%d+,%d+,%d+),(%d+),(%d+,%d+),"([^"]*)",("[^"]*"),(%w+),(%d+)%]$'

local function complete_straight(token, ids, outputs)
  local done, records, ended, results, places, groups_of = {}, {}, {}, {}, {}, {}
  local at = digits[now]
  for index, stored in ipairs(hmget(JOBS, ids)) do
    local id = ids[index]
    local number, times, attempt, counts, lease, worker, began, claimed_at = string.match(stored or '', RUNNING)
    if lease == token and not changed[id] then
      if began == 'null' then attempt = digits[attempt + 1] end
      pair_value(records, id, '["succeeded",' .. number .. ',' .. times .. ',' .. attempt .. ',' .. counts .. ',null,'
        .. worker .. ',null,' .. claimed_at .. ',' .. at .. ']')
      pair_value(places, at, id)
      if outputs[index] ~= 'null' then pair_value(results, id, outputs[index]) end
      groups_of[number] = (groups_of[number] or 0) + 1
      done[index], jobs[id] = true, nil
      insert(ended, id)
    end
  end
  if #ended == 0 then return done, ended end
  insist()
  in_chunks('ZREM', LEASES, ended)
  in_chunks('HSET', JOBS, records)
  in_chunks('HSET', RESULTS, results)
  in_chunks('ZADD', final_place('succeeded'), places)
  for number, total in pairs(groups_of) do
    count(tonumber(number), 'running', -total)
    count(tonumber(number), 'succeeded', total)
  end
  finished = true
  return done, ended
end

-- Finish runs, each in one way; return what could not be done: the place among all of them, and why.
local function finish_all(runs, began)
  begin(began)
  local problems, ends, place = {}, {}, 0
  for _, run in ipairs(runs) do
    local token, ids, how = run[1], run[2], finishes[run[3]]
    local first, second, third = unpack(run[4], 1, 3)
    local done = {}
    if run[3] == 'complete' and not listening then
      local ended
      done, ended = complete_straight(token, ids, first)
      if #ended > 0 and count_of('open', ended) > 0 then
        for _, id in ipairs(ended) do insert(ends, { id = id, state = 'succeeded' }) end
      end
    end
    local others = {}
    for index, id in ipairs(ids) do
      if not done[index] then insert(others, id) end
    end
    load_all(others)
    for index, id in ipairs(ids) do
      if not done[index] then
        local job = held(id, token)
        local problem = not job and 'lost'
          or how(job, first and first[index], second and second[index], third and third[index])
        if problem then insert(problems, { place, problem }) end
        if job and FINAL[job.state] then insert(ends, job) end
      end
      place = place + 1
    end
  end
  settle(ends)
  flush()
  return problems
end

actions.finish = finish_all

function actions.finish_and_claim(runs, began, wanted)
  local problems = finish_all(runs, began)
  enter_room('claim')
  return { problems, actions.claim(wanted) }
end

-- Renew what is held and has not run out: 'lost', 'expired', or the reason to stop if there is one.
function actions.renew(runs, extend_by)
  local found = {}
  load_runs(runs)
  for _, run in ipairs(runs) do
    for _, id in ipairs(run[2]) do
      local job = held(id, run[1])
      if not job then
        insert(found, { 'lost' })
      elseif tonumber(call('ZSCORE', LEASES, id)) < now then
        insert(found, { 'expired' })
      else
        zset(LEASES, id, now + extend_by)
        insert(found, { 'renewed', job.cancel or false, job.worker })
      end
    end
  end
  return found
end

function actions.progress(id, token, value)
  local job = held(id, token)
  if not job then return false end
  hset(PROGRESS, job.id, value)
  return true
end

-- Take jobs from leases that ran out, and cancel those whose time to run by has passed.
function actions.reap()
  settle_rest()
  local listened, told = listening, #events
  listening = true
  local expired = call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. format('%.0f', now), 'LIMIT', 0, settings.at_once)
  local ends = {}
  load_all(expired)
  for _, id in ipairs(expired) do
    local job = load(id)
    tell('lease_expired', job, job.worker, job.lease)
    if job.began then
      local message = format("worker '%s' let its lease run out during the run", job.worker)
      fail(job, error_text('lease expired', message), true)
    elseif job.cancel == 'user' then
      cancel(job, settings.by_user)
    else
      wait_until(job, job.run_at)
      tell('ready', job)
    end
    if FINAL[job.state] then insert(ends, job) end
  end
  local late = cancel_expired(ends)
  settle(ends)
  flush()
  listening = listened
  local mine = {}
  for index = told + 1, #events do insert(mine, events[index]) end
  if not listening then
    for index = #events, told + 1, -1 do events[index] = nil end
  end
  return { mine, max(#expired, late) >= settings.at_once }
end

actions.settle = settle_rest
