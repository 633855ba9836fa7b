-- Ending runs: finishes of every kind, renewals, and leases that ran out.

-- The job that a lease holds, or nil.
local function held(lease)
  local job = load(lease[1])
  if job and job.state == 'running' and job.lease == lease[2] then return job end
end

local function begin(leases)
  for _, lease in ipairs(leases) do
    local job = held(lease)
    if job and not job.began then
      job.began, job.attempt = 1, job.attempt + 1
      amend(job)
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

local function finish_all(list, began)
  begin(began)
  local ids, outcomes, ends = {}, {}, {}
  for index, finish in ipairs(list) do ids[index] = finish[2][1] end
  load_all(ids)
  for index, finish in ipairs(list) do
    local job = held(finish[2])
    local problem = not job and 'lost' or finishes[finish[1]](job, finish[3], finish[4], finish[5])
    outcomes[index] = problem or false
    if job and FINAL[job.state] then insert(ends, end_of(job)) end
  end
  settle(ends)
  flush()
  return outcomes
end

actions.finish = finish_all

function actions.finish_and_claim(list, began, wanted)
  local outcomes = finish_all(list, began)
  enter_room('claim')
  return { outcomes, actions.claim(wanted) }
end

-- Renew what is held and has not run out: 'lost', 'expired', or the reason to stop if there is one.
function actions.renew(leases, extend_by)
  local found = {}
  for index, lease in ipairs(leases) do
    local job = held(lease)
    if not job then
      found[index] = { 'lost' }
    elseif tonumber(call('ZSCORE', LEASES, job.id)) < now then
      found[index] = { 'expired' }
    else
      zset(LEASES, job.id, now + extend_by)
      found[index] = { 'renewed', job.cancel or false, job.worker }
    end
  end
  return found
end

function actions.progress(lease, value)
  local job = held(lease)
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
    if FINAL[job.state] then insert(ends, end_of(job)) end
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
