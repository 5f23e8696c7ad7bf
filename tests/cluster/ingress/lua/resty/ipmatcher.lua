-- Replaces lua-resty-ipmatcher: global rate limits, which our objects do not ask for.
return { new = function() return nil, "not to be had in the test cluster" end }
