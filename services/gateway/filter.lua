-- Names the task of each call in the header x-dl-task, by which the routes are matched.
--
-- METHODS (path -> {key, target, streaming}) and inflate.lua are put before this text by the control plane. The script
-- runs on Envoy's worker threads: it never blocks, reads only the bytes it needs, and every loop is bounded.

local WINDOW = 256        -- bytes fetched at a time: one fetch covers the head of nearly every request
local MAX_FIELDS = 4096   -- per message level, before the key is found
local INFLATED = { 1024, 65536 }  -- how much of a compressed message is unpacked to find its key
local MAX_TASK = 2147483647

local byte, sub, find, match = string.byte, string.sub, string.find, string.match

-- A reader gives bytes by position (0-based, up to `size`) from a window over the buffered body. One serves every
-- request of a worker thread: nothing is suspended while it is in use, and a table less a request is measurable.
local READER = {}

local function reader_of(body, size)
  READER.body, READER.size, READER.base, READER.last, READER.window = body, size, 0, 0, ""
  return READER
end

local function byte_at(r, pos)
  if pos < r.base or pos >= r.last then
    if r.body == nil or pos >= r.size then return nil end
    local length = r.size - pos
    if length > WINDOW then length = WINDOW end
    r.window, r.base, r.last = r.body:getBytes(pos, length), pos, pos + length
  end
  return byte(r.window, pos - r.base + 1)
end

local function text_at(r, pos, length)
  if pos >= r.base and pos + length <= r.last then
    return sub(r.window, pos - r.base + 1, pos - r.base + length)
  end
  if r.body == nil or pos + length > r.size then return nil end
  return r.body:getBytes(pos, length)
end

-- A varint as a number (exact up to 2^53, far more than any length or tag), and the position after it.
local function varint(r, pos, stop)
  local value, scale = 0, 1
  for i = 0, 9 do
    if pos + i >= stop then return nil end
    local b = byte_at(r, pos + i)
    if b == nil then return nil end
    if b < 128 then return value + b * scale, pos + i + 1 end
    value = value + (b - 128) * scale
    scale = scale * 128
  end
  return nil
end

-- The next field of a message: number, wire type, start and end of its value; nil where the bytes are no message.
local function next_field(r, pos, stop)
  local tag, at = varint(r, pos, stop)
  if tag == nil or tag < 8 then return nil end
  local wire = tag % 8
  local number = (tag - wire) / 8
  if wire == 2 then
    local length, start = varint(r, at, stop)
    if length == nil or start + length > stop then return nil end
    return number, wire, start, start + length
  elseif wire == 0 then
    local _, after = varint(r, at, stop)
    if after == nil then return nil end
    return number, wire, at, after
  elseif wire == 1 then
    if at + 8 > stop then return nil end
    return number, wire, at, at + 8
  elseif wire == 5 then
    if at + 4 > stop then return nil end
    return number, wire, at, at + 4
  end
  return nil
end

-- First field `wanted` of a wire type: its start and end. false when there is none, nil when malformed.
local function seek(r, pos, stop, wanted, kind)
  for _ = 1, MAX_FIELDS do
    if pos >= stop then return false end
    local number, wire, start, after = next_field(r, pos, stop)
    if number == nil then return nil end
    if number == wanted and wire == kind then return start, after end
    pos = after
  end
  return nil
end

-- Follows embedded messages down to a length-delimited field.
local function descend(r, pos, stop, path)
  for i = 1, #path do
    pos, stop = seek(r, pos, stop, path[i], 2)
    if not pos then return pos end
  end
  return pos, stop
end

-- "69" from "069" or "69"; nil for anything that is no task id.
local function task_of_digits(digits)
  if digits == nil then return nil end
  digits = match(digits, "^0*([1-9]%d*)$")
  if digits == nil or #digits > 10 then return nil end
  if tonumber(digits) > MAX_TASK then return nil end
  return digits
end

-- A little-endian IEEE double as a task id, nil when it is not a whole number in range.
local function task_of_double(b)
  local b1, b2, b3, b4, b5, b6, b7, b8 = byte(b, 1, 8)
  if b8 == nil or b8 >= 128 then return nil end
  local exponent = b8 * 16 + (b7 - b7 % 16) / 16 - 1023
  if exponent < 0 or exponent > 30 then return nil end
  local fraction = ((((((b7 % 16) * 256 + b6) * 256 + b5) * 256 + b4) * 256 + b3) * 256 + b2) * 256 + b1
  local value = (1 + fraction / 4503599627370496) * 2 ^ exponent
  if value ~= math.floor(value) then return nil end
  return task_of_digits(string.format("%d", value))
end

local function task_of_name(r, pos, stop, path, what)
  local start, after = descend(r, pos, stop, path)
  if start == nil then return nil, "the request is not a valid protobuf message" end
  if not start then return nil, "the request has no " .. what end
  -- The id is at the end: a name of any length costs the same.
  local length = after - start
  local tail = text_at(r, length > 64 and after - 64 or start, length > 64 and 64 or length)
  if tail == nil then return nil, "the request is not a valid protobuf message" end
  local before = #tail  -- of the digits at the end; they must be all that follows the last dash, or the whole name
  while before > 0 do
    local b = byte(tail, before)
    if b < 48 or b > 57 then break end
    before = before - 1
  end
  if byte(tail, before) == 45 or (before == 0 and length <= 64) then
    local task = task_of_digits(sub(tail, before + 1))
    if task then return task end
  end
  return nil, what .. " '" .. string.gsub(tail, "[%c\128-\255]", "?") ..
    "' does not end in a task id; name the model like textcnn-69"
end

local NO_TAG = "the request has no meta.tags['taskId']; set it to the task's number"

local function task_of_tags(r, pos, stop, path)
  local at, meta_end = descend(r, pos, stop, path)
  if at == nil then return nil, "the request is not a valid protobuf message" end
  if not at then return nil, NO_TAG end
  local task
  for _ = 1, MAX_FIELDS do
    if at >= meta_end then
      if task == nil then return nil, NO_TAG end
      if task then return task end
      return nil, "meta.tags['taskId'] is not a task id; send a whole number or a string of digits"
    end
    local number, wire, entry, entry_end = next_field(r, at, meta_end)
    if number == nil then break end
    if number == 2 and wire == 2 then
      local key, key_end = seek(r, entry, entry_end, 1, 2)
      if key and key_end - key == 6 and text_at(r, key, 6) == "taskId" then
        task = false  -- present; the last entry of a repeated key counts, as protobuf has it
        local value, value_end = seek(r, entry, entry_end, 2, 2)
        if value then
          local kind, kind_wire, start, after = next_field(r, value, value_end)
          if kind == 2 and kind_wire == 1 then
            task = task_of_double(text_at(r, start, 8) or "") or false
          elseif kind == 3 and kind_wire == 2 and after - start <= 64 then
            task = task_of_digits(text_at(r, start, after - start)) or false
          end
        end
      end
    end
    at = entry_end
  end
  return nil, "the request is not a valid protobuf message"
end

local NAME, SPEC, TASKS, META, FEEDBACK = { 1 }, { 1, 1 }, { 1, 1, 1 }, { 2 }, { 1, 2 }
local KEYS = {
  name = function(r, pos, stop) return task_of_name(r, pos, stop, NAME, "model_name") end,
  spec = function(r, pos, stop) return task_of_name(r, pos, stop, SPEC, "model_spec.name") end,
  tasks = function(r, pos, stop) return task_of_name(r, pos, stop, TASKS, "tasks[0].model_spec.name") end,
  meta = function(r, pos, stop) return task_of_tags(r, pos, stop, META) end,
  feedback = function(r, pos, stop) return task_of_tags(r, pos, stop, FEEDBACK) end,
}

local function task_of_compressed(body, length, key, encoding)
  if encoding ~= "gzip" and encoding ~= "deflate" then
    return nil, "the request is compressed with " .. (encoding or "an unnamed encoding") ..
      ": use gzip, or send the metadata x-dl-task: <task id>"
  end
  local problem
  for _, limit in ipairs(INFLATED) do
    -- Packed data is hardly ever longer than what it unpacks to; the headers and tables come on top.
    local source = body:getBytes(5, math.min(length, limit + 1024))
    local text, whole = INFLATE(source, encoding, limit)
    -- Of a cut message the true size is not known: a field may reach beyond what was unpacked.
    local stop = whole and #text or 2 ^ 31
    local task
    task, problem = KEYS[key]({ size = #text, base = 0, last = #text, window = text }, 0, stop)
    if task or whole then return task, problem end
  end
  return nil, "no task in the first " .. INFLATED[#INFLATED] .. " bytes of the compressed request (" .. problem ..
    "); send the metadata x-dl-task: <task id>"
end

-- The task that a gRPC body names, or nil and what is wrong.
local function task_of_body(body, key, encoding)
  local size = body and body:length() or 0
  if size < 5 then return nil, "the call carries no request message" end
  local r = reader_of(body, size)
  local flag = byte_at(r, 0)
  local _, l1, l2, l3, l4 = byte(r.window, 1, 5)
  local length = ((l1 * 256 + l2) * 256 + l3) * 256 + l4
  if 5 + length > size then return nil, "the request message is cut short" end
  if flag == 0 then return KEYS[key](r, 5, 5 + length) end
  return task_of_compressed(body, length, key, encoding)
end

local function refuse(handle, http, grpc, message)
  handle:respond({ [":status"] = http, ["grpc-status"] = grpc }, message)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local content_type = headers:get("content-type")
  if content_type == nil or sub(content_type, 1, 16) ~= "application/grpc"
      or find(content_type, "^application/grpc%-web") then
    handle:respond({ [":status"] = "415", ["content-type"] = "text/plain" },
      "this port speaks gRPC: send content-type application/grpc over HTTP/2\n")
    return
  end
  local path = headers:get(":path")
  local method = METHODS[path]
  if method == nil then
    refuse(handle, "501", "12", "the gateway has no method " .. sub(path or "", 1, 200) ..
      "; ask server reflection for the ones it has")
    return
  end
  local key = method.key
  local given = headers:get("x-dl-task")
  local task, problem
  if key == "control" or (key == "either" and given == nil) then
    task = "gateway"
  elseif given ~= nil then
    task = task_of_digits(given)
    if task == nil then
      refuse(handle, "400", "3", "metadata x-dl-task is not a task id: send the task's number, like 69")
      return
    end
    -- Held whole, though not read, so that the size limit and the retry are the same for everybody.
    if not method.streaming then handle:body() end
  elseif key == "header" or key == "either" then
    refuse(handle, "400", "3", "this method's request names no model: send the metadata x-dl-task: <task id>")
    return
  else
    local encoding = headers:get("grpc-encoding")
    task, problem = task_of_body(handle:body(), key, encoding)
    if task == nil then
      refuse(handle, "400", "3", problem)
      return
    end
  end
  headers = handle:headers()  -- an object lives until the script is suspended, as body() does
  if task ~= given then headers:replace("x-dl-task", task) end
  if method.target ~= path then headers:replace(":path", method.target) end
end
