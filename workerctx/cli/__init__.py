"""The command line: ``workerctx worker app:jobs``."""

from workerctx.cli.app import app as app
