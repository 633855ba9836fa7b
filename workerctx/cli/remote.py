"""``workerctx worker --remote``: the same worker, served by a gateway instead of a store."""

from __future__ import annotations

import os
import ssl
from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

from attrs import frozen
from cyclopts import Parameter

from workerctx.errors import CommandError, InvalidConfig

if TYPE_CHECKING:
    from workerctx.remote import Worker
    from workerctx.runtime import WorkerConfig
    from workerctx.service import JobRegistry

TOKEN_VARIABLE: Final = "WORKERCTX_TOKEN"  # noqa: S105 - the name of a variable

DENIED: Final = 77
"""The exit status of a worker that its gateway refuses: starting it again changes nothing."""


@Parameter(name="*", group="Gateway")
@frozen
class RemoteOptions:
    """Which gateway a worker is served by, and how the worker shows who it is.

    Attributes:
        endpoint: Its address; None for a worker that has a store.
        token_file: A file with a token and nothing else.
        ca: Authorities that have signed the gateway's certificate.
        certificate: The worker's own, with its chain.
        key: Its key.
    """

    endpoint: Annotated[
        str | None,
        Parameter(
            name="--remote",
            metavar="URL",
            env_var="WORKERCTX_REMOTE",
            help="Be served by the gateway at this address, such as wss://jobs.example.com/workers, and not by a store."
            " A token is taken from WORKERCTX_TOKEN.",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        Parameter(name="--token-file", env_var="WORKERCTX_TOKEN_FILE", help="Take the token from this file."),
    ] = None
    ca: Annotated[
        Path | None,
        Parameter(
            name="--tls-ca",
            env_var="WORKERCTX_TLS_CA",
            help="Trust these authorities, and no others, to have signed the gateway's certificate (PEM).",
        ),
    ] = None
    certificate: Annotated[
        Path | None,
        Parameter(
            name="--tls-certificate",
            env_var="WORKERCTX_TLS_CERTIFICATE",
            help="Show the gateway this certificate (PEM).",
        ),
    ] = None
    key: Annotated[
        Path | None, Parameter(name="--tls-key", env_var="WORKERCTX_TLS_KEY", help="The key of that certificate (PEM).")
    ] = None

    @property
    def lacks_gateway(self) -> bool:
        """Whether something is said about a gateway, and not which."""
        return self.endpoint is None and self != RemoteOptions()

    def make_worker(self, jobs: JobRegistry, config: WorkerConfig, name: str | None) -> Worker:
        """Make the worker.

        Raises:
            CommandError: Something is missing, or makes no sense.
            InvalidConfig: Likewise.
        """
        try:
            import_module("workerctx.remote.websocket")  # says what is missing
            from workerctx.remote import Credentials, RemoteConfig, Worker
        except ModuleNotFoundError as exc:
            raise CommandError(str(exc)) from exc
        settings = RemoteConfig.from_env(
            endpoint=self.endpoint,
            task_queue=",".join(f"{queue}={weight}" for queue, weight in config.queues.items()),
            max_concurrency=config.concurrency,
            concurrency_per_kind=config.concurrency_per_kind,
            labels=config.labels,
            identity=name,
            prefetch=config.prefetch,
            prefetch_window=config.prefetch_window,
            grace=config.grace,
            hard_limit=config.hard_limit,
            credentials=Credentials(token=self._token(), tls=self._tls()),
        )
        return Worker.builder(settings).register(jobs).build()

    def _token(self) -> str | None:
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE)
        try:
            token = self.token_file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeError) as exc:
            raise CommandError(f"the token cannot be read: {exc}") from exc
        if not token or not token.isprintable() or " " in token:
            raise CommandError(f"{self.token_file} holds no token: write it there in one line")
        return token

    def _tls(self) -> ssl.SSLContext | None:
        if self.key is not None and self.certificate is None:
            raise InvalidConfig("a key without a certificate shows nothing: add --tls-certificate")
        if self.ca is None and self.certificate is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as exc:
            raise CommandError(f"the authorities in {self.ca} cannot be used: {exc}") from exc
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as exc:
                files = str(self.certificate) if self.key is None else f"{self.certificate} with the key in {self.key}"
                raise CommandError(f"the certificate in {files} cannot be used: {exc}") from exc
        return context
