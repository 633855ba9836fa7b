-- Rate limits, workers, schedules, the clock.

function actions.now() return now end

function actions.advance(by)
  call('HINCRBY', ns .. ':meta', 'clock_offset', format('%.0f', by))
  ready_anywhere, finished = true, true
end

-- What the server says to the first command that it refuses; false if it refuses none. A script that learns it in its
-- middle has done half of its work.
local function refusal()
  local spare = ns .. ':nothing'
  for _, words in ipairs({
    { 'DEL' }, { 'EXISTS' }, { 'HSET', 'a', 1 }, { 'HSETNX', 'a', 1 }, { 'HGET', 'a' }, { 'HMGET', 'a' }, { 'HGETALL' },
    { 'HKEYS' }, { 'HLEN' }, { 'HSTRLEN', 'a' }, { 'HINCRBY', 'a', 1 }, { 'EXPIRE', 60 }, { 'HDEL', 'a' },
    { 'RPUSH', 'a' }, { 'LLEN' }, { 'LINDEX', 0 }, { 'LRANGE', 0, -1 }, { 'LPOP' },
    { 'SADD', 'a' }, { 'SISMEMBER', 'a' }, { 'SMEMBERS' }, { 'SREM', 'a' },
    { 'ZADD', 1, 'a' }, { 'ZCARD' }, { 'ZCOUNT', 0, 1 }, { 'ZSCORE', 'a' }, { 'ZRANGE', 0, -1 },
    { 'ZRANGEBYSCORE', 0, 1 }, { 'ZRANGEBYLEX', '-', '+' }, { 'ZREM', 'a' },
  }) do
    local answer = redis.pcall(words[1], spare, unpack(words, 2))
    if type(answer) == 'table' and answer.err then
      redis.pcall('DEL', spare)
      return words[1] .. ': ' .. answer.err
    end
  end
  return false
end

-- Which form the data has; written by whoever comes first, unless he may not do all that is needed.
function actions.version(current)
  call('PUBLISH', channel .. ':opened', origin)
  local refused = refusal()
  local found = call('HGET', ns .. ':meta', 'version')
  if not found and not refused then call('HSET', ns .. ':meta', 'version', current) end
  -- Some users may not ask; then what the server does when it is full is not known.
  local info = redis.pcall('INFO', 'memory')
  local policy = type(info) == 'string' and string.match(info, 'maxmemory_policy:([%w-]+)') or ''
  return { tonumber(found or current), policy, refused }
end

function actions.wake(queue)
  if queue then ready[queue] = true else ready_anywhere = true end
end

-- Rate limits, by the generic cell rate algorithm: one moment for each scope.

-- When all of a limit is free, and until when it is closed because it was drained; older releases left that out.
local function set_limit(scope, capacity, per, tat, closed)
  insist()
  call('HSET', LIMITS, scope, format('[%d,%.17g,%.0f,%.0f]', capacity, per, tat, closed or 0))
end

-- When all of a limit is free if as many calls of it are used up as of another one.
local function full_until(capacity, per, other_capacity, other_per, other_tat, closed)
  local opens = max(now, closed or 0)
  local full = opens
  if other_tat > opens then
    local slower = per * other_capacity / (other_per * capacity)
    full = full + min(floor((other_tat - opens) * slower + 0.5), settings.longest_wait)
  end
  -- A closed limit opens with one call.
  return opens == now and full or max(full, opens + floor(per * 1000000 * (capacity - 1) / capacity))
end

function actions.configure(scope, capacity, per)
  local text, tat, closed = call('HGET', LIMITS, scope), 0, nil
  if text then
    local known = cjson.decode(text)
    tat, closed = full_until(capacity, per, unpack(known)), known[4]
  end
  set_limit(scope, capacity, per, tat, closed)
end

-- Set a limit unless it is there, and count as used up what is used up elsewhere.
function shared.adopt_limit(scope, capacity, per, tat, closed)
  local text = call('HGET', LIMITS, scope)
  if text then
    local known_capacity, known_per, known_tat, known_closed = unpack(cjson.decode(text))
    tat = max(known_tat, full_until(known_capacity, known_per, capacity, per, tat, closed))
    capacity, per, closed = known_capacity, known_per, max(known_closed or 0, closed)
  end
  set_limit(scope, capacity, per, tat, closed)
end

function actions.acquire(scope, amount)
  local text = call('HGET', LIMITS, scope)
  if not text then return { 'unknown' } end
  local capacity, per, tat = unpack(cjson.decode(text))
  if amount > capacity then return { 'never', capacity } end
  local after = max(tat, now) + floor(amount * per * 1000000 / capacity)
  local wait = after - now - per * 1000000
  if wait > 0 then return { 'wait', max(wait, 1) } end
  set_limit(scope, capacity, per, after)
  return { 'granted' }
end

actions.drain = drain

function actions.limits() return call('HGETALL', LIMITS) end

-- Workers: a hash for each, and when each was heard of.

local SEEN = ns .. ':seen'

function actions.register(id, info, state, in_flight)
  insist()
  call('HSET', key('worker', id), 'info', info, 'state', state, 'in_flight', in_flight,
    'started_at', format('%.0f', now))
  call('ZADD', SEEN, now, id)
  call('DEL', key('commands', id))
end

function actions.heartbeat(id, state, in_flight)
  if not call('ZSCORE', SEEN, id) then return false end
  insist()
  call('ZADD', SEEN, now, id)
  call('HSET', key('worker', id), 'state', state, 'in_flight', in_flight)
  local commands = call('LRANGE', key('commands', id), 0, -1)
  call('DEL', key('commands', id))
  return commands
end

function actions.send(id, command)
  if not call('ZSCORE', SEEN, id) then return false end
  insist()
  call('RPUSH', key('commands', id), command)
  return true
end

function actions.deregister(id)
  call('ZREM', SEEN, id)
  call('DEL', key('worker', id), key('commands', id))
end

local function workers(ids)
  local rows = {}
  for index = 1, #ids, 2 do
    local row = call('HMGET', key('worker', ids[index]), 'info', 'state', 'in_flight', 'started_at')
    insert(rows, { row[1], row[2], tonumber(row[3]), tonumber(row[4]), tonumber(ids[index + 1]) })
  end
  return rows
end

-- Remove and return workers that were not heard of for long.
function actions.silent(older_than)
  local ids = call('ZRANGEBYSCORE', SEEN, '-inf', '(' .. format('%.0f', now - older_than), 'WITHSCORES')
  local rows = workers(ids)
  for index = 1, #ids, 2 do actions.deregister(ids[index]) end
  return rows
end

function actions.workers() return workers(call('ZRANGE', SEEN, 0, -1, 'WITHSCORES')) end

-- Schedules: a hash for each, their names, and when those that are enabled fire next.

local SCHEDULES, TICKS = ns .. ':schedules', ns .. ':ticks'

local function set_times(name, enabled, due, last)
  local at = key('schedule', name)
  insist()
  call('HSET', at, 'enabled', enabled and 1 or 0, 'next', due and format('%.0f', due) or '')
  if last then call('HSET', at, 'last', format('%.0f', last)) end
  if enabled and due then
    call('ZADD', TICKS, due, name)
  else
    call('ZREM', TICKS, name)
  end
end

local function schedule(name)
  local row = call('HMGET', key('schedule', name), 'definition', 'enabled', 'next', 'last', 'timing')
  if not row[1] then return nil end
  return { name, row[1], row[2] == '1', tonumber(row[3] or '') or false, tonumber(row[4] or '') or false, row[5] }
end

local function define(name, definition, timing)
  insist()
  call('HSET', key('schedule', name), 'definition', definition, 'timing', timing)
  call('SADD', SCHEDULES, name)
end

shared.schedule, shared.set_times, shared.define = schedule, set_times, define

-- The same timing goes on where it was, a changed one starts afresh.
function actions.put_schedule(name, definition, timing, enabled, fresh)
  local old = schedule(name)
  local due = fresh
  if old and old[3] and old[6] == timing then due = old[4] end
  define(name, definition, timing)
  set_times(name, enabled, due)
end

function actions.schedule(name) return schedule(name) or false end

function actions.schedules()
  local rows = {}
  for _, name in ipairs(call('SMEMBERS', SCHEDULES)) do insert(rows, schedule(name)) end
  return rows
end

function actions.enable_schedule(name, enabled, fresh)
  local found = schedule(name)
  if not found then return false end
  local due = found[4]
  if enabled and not found[3] then due = fresh end
  set_times(name, enabled, due)
  return true
end

function actions.delete_schedule(name)
  call('SREM', SCHEDULES, name)
  call('ZREM', TICKS, name)
  call('DEL', key('schedule', name))
end

local function next_tick()
  local first = call('ZRANGE', TICKS, 0, 0, 'WITHSCORES')[2]
  return first and tonumber(first) or false
end

function actions.due_schedules()
  local rows = {}
  for _, name in ipairs(call('ZRANGEBYSCORE', TICKS, '-inf', now)) do insert(rows, schedule(name)) end
  return { rows, next_tick() }
end

-- Move schedules on, each only if nobody else has, and add the jobs of their ticks.
function actions.fire(fired)
  enter_room('enqueue')
  local outcomes = {}
  for _, fire in ipairs(fired) do
    local name, seen, due, last, texts, rows = unpack(fire)
    local found = schedule(name)
    if found and found[3] and found[4] == seen then
      set_times(name, true, due, last)
      local added = shared.add_all(texts, rows)
      for _, outcome in ipairs(added[2]) do insert(outcomes, { name, outcome[1], outcome[2] }) end
      flush()
    end
  end
  return { outcomes, next_tick() }
end
