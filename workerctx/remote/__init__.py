"""Workers without database access: the same handlers, served over a session with a gateway."""

from workerctx.remote.frames import VERSIONS as VERSIONS
