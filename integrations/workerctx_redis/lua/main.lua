-- Do what is asked, one after the other, then tell who waits.

local results = {}
for index, operation in ipairs(request[6]) do
  enter_room(operation[1])
  local result = actions[operation[2]](unpack(operation, 3, 8))
  flush()
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
