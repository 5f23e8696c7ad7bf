"""What schemathesis has to learn beside the API's document; scripts/test-api.toml names this file."""

import schemathesis

# Bytes, as far as a client is concerned.
schemathesis.serializer.alias("application/x-tar", "application/octet-stream")
