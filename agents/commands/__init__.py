"""Commands of `driftline`, one module a subject. Tops of modules stay light: see `agents.cli`."""
