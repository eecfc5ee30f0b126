"""Between Envoy's filters for browsers and curl and the rest: makes answers ready for them. Pure.

The gateway's own refusals are text for those filters. They become errors of the caller's protocol here: a JSON object,
or the status and message of gRPC-Web.

Envoy 1.39's transcoder ends the process on some answers that are well-formed or nearly so: on a map's entry without its
key or its value, which protobuf lets a sender leave out where it is the default (and .NET's does), and on lengths that
do not fit into the message around them. So a filter between the instance and the transcoder walks through the answer
and puts an error in place of such a one. It is a Lua script because only calls by JSON pay for it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor

from libs.proto.pool import POOL

Json = dict[str, Any]

GUARD = "json_guard"  # the filter's name in the chain
JSON_MARK = "x-envoy-original-path"  # a header that Envoy's transcoder adds to calls that it made out of JSON

_MAX_DEPTH = 100  # of messages in messages: protobuf's own limit

# gRPC's statuses by HTTP's, where a refusal brings none of its own.
_STATUSES = (
    '{["400"]="3",["401"]="16",["403"]="7",["404"]="5",["408"]="4",["413"]="8",["429"]="8",["503"]="14"}'
)

# Put before this text: TYPES (type number -> field number -> type number of what is inside, negative for a map's
# entry), METHODS (path -> type number of the answer), KINDS (full name -> type number) and ANY (google.protobuf.Any's).
# Every step of the walk moves forward in the bytes, so it is bounded by them.
_SCRIPT = """
local byte = string.byte

local function varint(text, at, stop)
  local value, scale = 0, 1
  for i = at, at + 9 do
    if i > stop then return nil end
    local b = byte(text, i)
    if b < 128 then return value + b * scale, i + 1 end
    value, scale = value + (b - 128) * scale, scale * 128
  end
  return nil
end

local function sound(text, at, stop, kind, depth)
  if depth > MAX_DEPTH then return false end
  local entry = kind < 0
  local inside = TYPES[entry and -kind or kind]
  local has_key, has_value = false, false
  local name, value, value_end  -- of a google.protobuf.Any
  while at <= stop do
    local tag, start = varint(text, at, stop)
    if tag == nil or tag < 8 or tag >= 2 ^ 32 then return false end
    local wire = tag % 8
    local number = (tag - wire) / 8
    if wire == 0 then
      local _, after = varint(text, start, stop)
      if after == nil then return false end
      at = after
    elseif wire == 1 then
      at = start + 8
    elseif wire == 5 then
      at = start + 4
    elseif wire == 2 then
      local length, first = varint(text, start, stop)
      if length == nil or first + length - 1 > stop then return false end
      at = first + length
      local child = inside[number]
      if child and not sound(text, first, at - 1, child, depth + 1) then return false end
      if kind == ANY and number == 1 then
        name = string.match(string.sub(text, first, at - 1), "[^/]*$")
      elseif kind == ANY and number == 2 then
        value, value_end = first, at - 1
      end
    else
      return false
    end
    if at > stop + 1 then return false end
    if number == 1 then has_key = true elseif number == 2 then has_value = true end
  end
  if name and value and KINDS[name] then return sound(text, value, value_end, KINDS[name], depth + 1) end
  return not entry or (has_key and has_value)
end

local function fit_for_json(body, kind)
  local size = body:length()
  if size == 0 then return true end  -- an error: its status is in the trailers
  local text = body:getBytes(0, size)
  if size < 5 or byte(text, 1) ~= 0 then return false end
  local _, l1, l2, l3, l4 = byte(text, 1, 5)
  if ((l1 * 256 + l2) * 256 + l3) * 256 + l4 ~= size - 5 then return false end
  return sound(text, 6, size, kind, 1)
end

-- Percent-encoding of a message in a header, as gRPC has it.
local function encoded(text)
  return (string.gsub(text, "[^ -$&-~]", function(c) return string.format("%%%02X", byte(c)) end))
end

-- The body of an error as the transcoder writes it: google.rpc.Status.
local function json_error(status, text)
  text = string.gsub(text, '[%c"\\\\]', function(c) return string.format("\\\\u%04x", byte(c)) end)
  return '{"code":' .. status .. ',"message":"' .. text .. '"}'
end

local function is_grpc(headers)
  local kind = headers:get("content-type")
  return kind ~= nil and string.sub(kind, 1, 16) == "application/grpc"
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if not is_grpc(headers) then return end  -- nothing that the filters before this one know
  local kind = headers:get(JSON_MARK) and METHODS[headers:get(":path")] or 0
  handle:streamInfo():dynamicMetadata():set("dl.web", "kind", kind)
end

function envoy_on_response(handle)
  local said = handle:streamInfo():dynamicMetadata():get("dl.web")
  if said == nil then return end
  local headers = handle:headers()
  if not is_grpc(headers) then
    -- The gateway's own refusal, as text.
    local body = handle:body(true)
    local text = body:length() > 0 and body:getBytes(0, math.min(body:length(), 4096)) or ""
    headers = handle:headers()  -- an object lives until the script waits
    local status = headers:get("grpc-status") or STATUSES[headers:get(":status")] or "2"
    if said.kind ~= 0 then
      local length = body:setBytes(json_error(status, text))
      headers:replace("content-length", tostring(length))
      headers:replace("content-type", "application/json")
    else
      body:setBytes("")
      headers:remove("content-length")
      headers:replace(":status", "200")
      headers:replace("content-type", "application/grpc")
      headers:replace("grpc-message", encoded(text))
    end
    headers:replace("grpc-status", status)
    return
  end
  if said.kind == 0 or headers:get("grpc-status") ~= nil then return end
  local body = handle:body(true)
  if fit_for_json(body, said.kind) then return end
  local said = "the instance's answer cannot be turned into JSON: call the model by gRPC"
  local length = body:setBytes(json_error("13", said))
  headers = handle:headers()
  headers:replace(":status", "500")
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(length))
  headers:replace("grpc-status", "13")
end
"""


def filter_config(methods: dict[str, Descriptor], files: Iterable[str]) -> Json:
    """The filter in Envoy's JSON form. `methods`: the types of the answers by path. `files`: those that the transcoder
    has."""
    answers = tuple(sorted((path, kind.full_name) for path, kind in methods.items()))
    return {
        "name": GUARD,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": _script(answers, tuple(sorted(files)))},
        },
    }


@functools.cache
def _script(methods: tuple[tuple[str, str], ...], files: tuple[str, ...]) -> str:
    numbers: dict[str, int] = {}
    rows: list[str] = []

    def number_of(kind: Descriptor) -> int:
        if kind.full_name in numbers:
            return numbers[kind.full_name]
        number = numbers[kind.full_name] = len(rows) + 1
        rows.append("")
        inside = []
        for field in kind.fields:
            if field.message_type is not None:
                child = number_of(field.message_type)
                entry = field.message_type.GetOptions().map_entry
                inside.append(f"[{field.number}]={-child if entry else child}")
        rows[number - 1] = "{" + ",".join(inside) + "}"
        return number

    paths = [f'["{path}"]={number_of(_message(name))}' for path, name in methods]
    # What an Any holds is printed as well, when its type is one of those that Envoy was given.
    kinds = [f'["{kind.full_name}"]={number_of(kind)}' for name in files for kind in _all_messages(name)]
    tables = {
        "JSON_MARK": f'"{JSON_MARK}"',
        "MAX_DEPTH": str(_MAX_DEPTH),
        "STATUSES": _STATUSES,
        "METHODS": "{" + ",".join(paths) + "}",
        "KINDS": "{" + ",".join(kinds) + "}",
        "ANY": str(number_of(_message("google.protobuf.Any"))),
        "TYPES": "{" + ",".join(rows) + "}",
    }
    return "".join(f"local {name} = {value}\n" for name, value in tables.items()) + _SCRIPT


def _all_messages(file: str) -> Iterator[Descriptor]:
    found: FileDescriptor = POOL.FindFileByName(file)
    waiting = list(found.message_types_by_name.values())
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting.extend(kind.nested_types)


def _message(name: str) -> Descriptor:
    found: Descriptor = POOL.FindMessageTypeByName(name)
    return found
