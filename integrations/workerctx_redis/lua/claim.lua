-- Handing out jobs: the heads of the groups that fit the worker, merged, and the queues by turns.

local function has_all(offered, required)
  for _, label in ipairs(required) do
    if not offered[label] then return false end
  end
  return true
end

local function fits(group, kinds, labels, room)
  return (not kinds or kinds[group.kind]) and room[group.kind] ~= 0 and has_all(labels, group.labels)
end

-- Let jobs that have become due stand among those that are ready.
local function promote(group)
  local from, to = group.later, group.ready
  local due = call('ZRANGEBYSCORE', from, '-inf', now, 'WITHSCORES', 'LIMIT', 0, settings.at_once)
  if #due == 0 then return end
  for index = 1, #due, 2 do
    local place, run_at = due[index], tonumber(due[index + 1])
    zset(from, place, false)
    zset(to, ready_place(run_at, string.sub(place, 11)), 2147483648 - tonumber(string.sub(place, 1, 10)))
  end
  touched[group], touched_later[group] = true, true
  flush()
end

-- The places of a sorted set, read a window at a time.
local function places(at, window)
  local stream = { at = at, window = window, offset = 0, index = 1, found = {} }
  function stream.head()
    if stream.index > #stream.found then
      if stream.ended then return nil end
      stream.found = call('ZRANGE', at, stream.offset, stream.offset + stream.window - 1, 'WITHSCORES')
      stream.offset, stream.index = stream.offset + stream.window, 1
      stream.ended = #stream.found < 2 * stream.window
      if #stream.found == 0 then return nil end
    end
    return tonumber(stream.found[stream.index + 1]), stream.found[stream.index]
  end
  function stream.pass() stream.index = stream.index + 2 end
  return stream
end

-- The groups of one queue in one order: take() gives the best job that is left.
local function line_of(queue, kinds, labels, room, limit)
  local fitting = {}
  for _, number in ipairs(call('ZRANGEBYSCORE', key('due', queue), '-inf', now)) do
    local group = group_of(tonumber(number))
    if fits(group, kinds, labels, room) then promote(group) end
  end
  for _, number in ipairs(call('SMEMBERS', key('live', queue))) do
    local group = group_of(tonumber(number))
    if fits(group, kinds, labels, room) then insert(fitting, group) end
  end
  local window = min(limit, max(16, floor(limit / max(#fitting, 1)) + 1))
  for _, group in ipairs(fitting) do group.places = places(group.ready, window) end
  local line = { fitting = fitting }
  -- Find the best job that is left; return whether there is one.
  function line.look()
    if line.group and room[line.group.kind] ~= 0 then return true end
    line.group = nil
    local first
    for _, group in ipairs(fitting) do
      if room[group.kind] ~= 0 then
        local score, place = group.places.head()
        if score and (not first or score < first or (score == first and place < line.place)) then
          line.group, line.place, first = group, place, score
        end
      end
    end
    return line.group ~= nil
  end
  function line.take()
    local group = line.group
    group.places.pass()
    line.group = nil
    return string.sub(line.place, 19), group, line.place
  end
  return line
end

-- Smooth weighted round robin over the queues that have something to give.
local function whose_turn(lines, turns)
  if #lines == 1 then return lines[1].look() and lines[1] end
  local open, total, chosen = 0, 0, nil
  for _, line in ipairs(lines) do
    if line.look() then open = open + 1 end
  end
  for _, line in ipairs(lines) do
    if line.group then
      if open == 1 then return line end
      local weight = turns.weights[line.number]
      total = total + weight
      turns.credit[line.number] = turns.credit[line.number] + weight
      if not chosen or turns.credit[line.number] > turns.credit[chosen.number] then chosen = line end
    end
  end
  if chosen then turns.credit[chosen.number] = turns.credit[chosen.number] - total end
  return chosen
end

-- The ids of the best jobs, where they stand, and in which groups.
local function take_turns(lines, turns, room, limit)
  local ids, found_at, from = {}, {}, {}
  local only = #lines == 1 and #lines[1].fitting == 1 and lines[1].fitting[1]
  if only and not room[only.kind] then
    -- Nobody to compare with.
    found_at = call('ZRANGE', only.ready, 0, limit - 1)
    for index, place in ipairs(found_at) do ids[index], from[index] = string.sub(place, 19), only end
    return ids, found_at, from
  end
  while #ids < limit do
    local line = whose_turn(lines, turns)
    if not line then break end
    local id, group, place = line.take()
    ids[#ids + 1] = id
    found_at[#ids], from[#ids] = place, group
    if room[group.kind] then room[group.kind] = room[group.kind] - 1 end
  end
  return ids, found_at, from
end

local function is_paused(queue)
  local till = call('HGET', PAUSES, queue)
  return till and (till == '' or tonumber(till) > now)
end

-- Return whether a job may run; one that may not is ended.
local function is_fit(job, ends)
  if job.expires_at and job.expires_at <= now then
    cancel(job, 'expired')
  elseif job.deliveries >= job.max_attempts + settings.delivery_margin then
    die(job, error_text('too many deliveries', format(
      'it was claimed %d times and never given back or finished: it may kill its workers', job.deliveries)))
  else
    return true
  end
  insert(ends, job)
end

local function grant(job, wanted)
  leave(job)
  job.attempt = job.attempt + (wanted.began and 1 or 0)
  job.deliveries = job.deliveries + 1
  job.lease, job.worker, job.began = wanted.token, wanted.worker, wanted.began and 1 or nil
  job.claimed_at, job.cancel, job.lease_expires = now, nil, now + wanted.ttl
  arrive(job, 'running')
  tell('started', job, wanted.worker, job.lease, job.attempt + (wanted.began and 0 or 1))
end

-- Most jobs are fresh and have nothing about them that a claim minds. They go the straight way: what is stored of them
-- is changed as the text that it is, and written at once. Returns their records by place, and the ids of the others.
local FRESH = '^%["waiting",(%d+,%d+,%d+,%d+),0,(%d+),0%]$'

local function grant_straight(ids, found_at, from, wanted)
  local texts, others, records, leases, taken = {}, {}, {}, {}, {}
  local expires, attempt = digits[now + wanted.ttl], wanted.began and ',1,' or ',0,'
  local run = ',1,' .. quoted(wanted.token) .. ',' .. quoted(wanted.worker) .. ',' .. whole(wanted.began and 1) .. ','
    .. digits[now] .. ']'
  for index, stored in ipairs(hmget(JOBS, ids)) do
    local id, group = ids[index], from[index]
    local about, max_attempts = string.match(stored, FRESH)
    if about then
      local text = '["running",' .. about .. attempt .. max_attempts .. run
      texts[index], jobs[id] = text, nil
      pair_value(records, id, text)
      pair_value(leases, expires, id)
      if not taken[group] then taken[group] = {} end
      insert(taken[group], found_at[index])
    else
      insert(others, id)
    end
  end
  if #records > 0 then insist() end
  for group, places in pairs(taken) do
    in_chunks('ZREM', group.ready, places)
    touched[group] = true
    count(group.number, 'waiting', -#places)
    count(group.number, 'running', #places)
  end
  in_chunks('HSET', JOBS, records)
  in_chunks('ZADD', LEASES, leases)
  return texts, others
end

function actions.claim(wanted)
  local kinds, labels, room = as_set(wanted.kinds), as_set(wanted.labels), wanted.room
  local turns = { weights = wanted.weights, credit = wanted.credit }
  local granted, records, ends, left = {}, {}, {}, settings.at_once
  while #granted < wanted.limit and left > 0 do
    local lines = {}
    for number, queue in ipairs(wanted.queues) do
      if not is_paused(queue) then
        local line = line_of(queue, kinds, labels, room, wanted.limit - #granted)
        line.number = number
        insert(lines, line)
      end
    end
    local ids, found_at, from = take_turns(lines, turns, room, wanted.limit - #granted)
    if #ids == 0 then break end
    local texts, others, unfit = {}, ids, 0
    if not listening then texts, others = grant_straight(ids, found_at, from, wanted) end
    load_all(others)
    for index, id in ipairs(ids) do
      local job = not texts[index] and load(id)
      if job then job.place = found_at[index] end
      if not job or is_fit(job, ends) then
        if job then grant(job, wanted) end
        insert(granted, id)
        records[#granted] = texts[index]
      else
        unfit = unfit + 1
        local kind = from[index].kind
        if room[kind] then room[kind] = room[kind] + 1 end
      end
    end
    if unfit > 0 then cancel_expired(ends) end
    flush()
    if unfit == 0 then break end
    left = left - unfit
  end
  settle(ends)
  flush()
  return { shown(granted, records), turns.credit }
end
