-- Do what is asked, one after the other, then tell who waits. What cannot be done for the types of its values fails
-- alone; what the server refuses fails all.

local results = {}
for index, operation in ipairs(request[6]) do
  enter_room(operation[1])
  local told = #events
  local done, result = pcall(actions[operation[2]], unpack(operation, 3, 8))
  if done then
    local written, problem = pcall(flush)
    if not written then done, result = false, problem end
  end
  if not done then
    local text, is_misfit = type(result) == 'table' and result.err or result, false
    for _, words in ipairs({ 'attempt to ', 'bad argument ', 'arguments must be strings', 'table index is ' }) do
      is_misfit = is_misfit or string.find(text, words, 1, true)
    end
    if not is_misfit then error(result, 0) end
    jobs, hashes, zsets, sets, counted, changed = {}, {}, {}, {}, {}, {}
    touched, touched_later = {}, {}
    for last = #events, told + 1, -1 do events[last] = nil end
    result = { misfit = text }
  end
  if result == nil then result = false end
  results[index] = result
end

local queues = ready_anywhere
if not ready_anywhere then
  queues = {}
  for queue in pairs(ready) do insert(queues, queue) end
end
if ready_anywhere or #queues > 0 then
  call('PUBLISH', channel .. ':ready', cjson.encode({ origin, ready_anywhere and null or queues }))
end
if finished then call('PUBLISH', channel .. ':finished', origin) end

local texts = {}
for number, text in pairs(named) do insert(texts, { number, text }) end
return cmsgpack.pack({ now, results, events, texts, queues, finished, call('LLEN', SETTLING) > 0 })
