-- Replaces lua-resty-balancer's chash: consistent hashing, which our objects do not ask for.
return { new = function() return nil, "not to be had in the test cluster" end }
