-- Debian has it under another name.
return require("nginx.dns.resolver")
