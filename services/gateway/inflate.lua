-- Unpacks the beginning of a gzip (RFC 1952) or zlib (RFC 1950) stream: enough of a compressed request to find its
-- routing key. Decoding is canonical Huffman, one bit at a time (RFC 1951 section 3.2.2): short, and fast enough for
-- a kilobyte. Nothing is verified: the backend unpacks the whole message and checks it.

local LENGTH_BASE = { 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
  163, 195, 227, 258 }
local LENGTH_BITS = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0 }
local DISTANCE_BASE = { 1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
  2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577 }
local DISTANCE_BITS = { 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12,
  13, 13 }
local CODE_ORDER = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 }

-- A code: how many symbols each length has, and the symbols in order of their codes.
local function code_of(lengths, first, count)
  local counts, offsets, symbols = {}, {}, {}
  for length = 0, 15 do counts[length] = 0 end
  for i = 0, count - 1 do
    local length = lengths[first + i]
    counts[length] = counts[length] + 1
  end
  offsets[1] = 0
  for length = 1, 14 do offsets[length + 1] = offsets[length] + counts[length] end
  for i = 0, count - 1 do
    local length = lengths[first + i]
    if length > 0 then
      symbols[offsets[length]] = i
      offsets[length] = offsets[length] + 1
    end
  end
  return { counts = counts, symbols = symbols }
end

local FIXED_LENGTHS, FIXED_DISTANCES
do
  local lengths = {}
  for i = 0, 287 do lengths[i] = i < 144 and 8 or i < 256 and 9 or i < 280 and 7 or 8 end
  FIXED_LENGTHS = code_of(lengths, 0, 288)
  for i = 0, 29 do lengths[i] = 5 end
  FIXED_DISTANCES = code_of(lengths, 0, 30)
end

-- The input as bits, lowest first. Past its end every bit is 0 and `ended` is set.
local function bit(r)
  if r.left == 0 then
    r.current = string.byte(r.source, r.at)
    if r.current == nil then
      r.ended, r.current = true, 0
    end
    r.at, r.left = r.at + 1, 8
  end
  local low = r.current % 2
  r.current = (r.current - low) / 2
  r.left = r.left - 1
  return low
end

local function bits(r, count)
  local value, scale = 0, 1
  for _ = 1, count do
    value = value + bit(r) * scale
    scale = scale * 2
  end
  return value
end

local function symbol(r, code)
  local value, first, index = 0, 0, 0
  for length = 1, 15 do
    value = value + bit(r)
    local count = code.counts[length]
    if value - count < first then return code.symbols[index + value - first] end
    index = index + count
    first = (first + count) * 2
    value = value * 2
  end
  return nil
end

local function dynamic_codes(r)
  local literal_count, distance_count, code_count = bits(r, 5) + 257, bits(r, 5) + 1, bits(r, 4) + 4
  local lengths = {}
  for i = 0, 18 do lengths[i] = 0 end
  for i = 1, code_count do lengths[CODE_ORDER[i]] = bits(r, 3) end
  local code = code_of(lengths, 0, 19)
  local i, total = 0, literal_count + distance_count
  while i < total do
    local s = symbol(r, code)
    if s == nil or r.ended then return nil end
    if s < 16 then
      lengths[i] = s
      i = i + 1
    else
      local value, times = 0, 0
      if s == 16 then
        if i == 0 then return nil end
        value, times = lengths[i - 1], 3 + bits(r, 2)
      elseif s == 17 then
        times = 3 + bits(r, 3)
      else
        times = 11 + bits(r, 7)
      end
      if i + times > total then return nil end
      for _ = 1, times do
        lengths[i] = value
        i = i + 1
      end
    end
  end
  return code_of(lengths, 0, literal_count), code_of(lengths, literal_count, distance_count)
end

-- One block into `out` (bytes by index from 1, `n` of them). Returns the new n, or n and false when malformed.
local function block(r, kind, out, n, limit)
  if kind == 0 then
    r.left = 0  -- the rest of the byte is padding
    local length = bits(r, 16)
    bits(r, 16)  -- its complement
    for _ = 1, length do
      if n >= limit or r.ended then return n, true end
      n = n + 1
      out[n] = bits(r, 8)
    end
    return n, true
  end
  local lengths, distances = FIXED_LENGTHS, FIXED_DISTANCES
  if kind == 2 then
    lengths, distances = dynamic_codes(r)
  end
  if lengths == nil or kind == 3 then return n, false end
  while n < limit do
    local s = symbol(r, lengths)
    if r.ended or s == nil then return n, false end
    if s == 256 then return n, true end
    if s < 256 then
      n = n + 1
      out[n] = s
    else
      local length_base = LENGTH_BASE[s - 256]
      if length_base == nil then return n, false end
      local length = length_base + bits(r, LENGTH_BITS[s - 256])
      local d = symbol(r, distances)
      if d == nil or d > 29 then return n, false end
      local distance = DISTANCE_BASE[d + 1] + bits(r, DISTANCE_BITS[d + 1])
      if distance > n or r.ended then return n, false end
      for _ = 1, length do
        n = n + 1
        out[n] = out[n - distance]
      end
    end
  end
  return n, true
end

local function text_of(out, n)
  local parts = {}
  for i = 1, n, 4096 do
    parts[#parts + 1] = string.char(unpack(out, i, math.min(i + 4095, n)))
  end
  return table.concat(parts)
end

-- Where the deflate stream begins, 1-based; nil when the header is not of this encoding.
local function body_start(source, encoding)
  if encoding == "deflate" then return 3 end
  local id1, id2, method, flags = string.byte(source, 1, 4)
  if id1 ~= 31 or id2 ~= 139 or method ~= 8 then return nil end
  local at = 11
  if math.floor(flags / 4) % 2 == 1 then
    local low, high = string.byte(source, at, at + 1)
    if high == nil then return nil end
    at = at + 2 + low + high * 256
  end
  for _, flag in ipairs({ 8, 16 }) do  -- a file name, a comment: to a zero byte
    if math.floor(flags / flag) % 2 == 1 then
      local stop = string.find(source, "\0", at, true)
      if stop == nil then return nil end
      at = stop + 1
    end
  end
  if math.floor(flags / 2) % 2 == 1 then at = at + 2 end
  return at
end

-- The first `limit` bytes (or a few more) of what a "gzip" or "deflate" source unpacks to, and whether that is all of
-- it. What is malformed or cut short gives the bytes before the fault.
function INFLATE(source, encoding, limit)
  local at = body_start(source, encoding)
  if at == nil then return "", false end
  local r = { source = source, at = at, current = 0, left = 0, ended = false }
  local out, n = {}, 0
  while n < limit do
    local last, kind, fine = bit(r), bits(r, 2), nil
    n, fine = block(r, kind, out, n, limit)
    if not fine or r.ended then return text_of(out, n), false end
    if last == 1 then return text_of(out, n), n < limit end
  end
  return text_of(out, n), false
end
