-- Replaces lua-resty-balancer's roundrobin: each node in turn. Weights are ignored; the controller
-- gives each endpoint the same.
local _M = {}
_M.__index = _M

function _M.reinit(self, nodes)
  self.nodes, self.ids, self.last = {}, {}, 0
  for id, weight in pairs(nodes) do
    self.nodes[id] = weight
    self.ids[#self.ids + 1] = id
  end
end

function _M.new(_, nodes)
  local self = setmetatable({}, _M)
  self:reinit(nodes)
  return self
end

function _M.find(self)
  if #self.ids == 0 then
    return nil
  end
  self.last = self.last % #self.ids + 1
  return self.ids[self.last]
end

return _M
