"""Serves workers without database access: a gateway between them and a store."""

from __future__ import annotations

from workerctx_starlette.gateway._config import GatewayConfig as GatewayConfig
from workerctx_starlette.gateway._gateway import Gateway as Gateway
from workerctx_starlette.gateway._identity import Authenticate as Authenticate
from workerctx_starlette.gateway._identity import Identity as Identity
from workerctx_starlette.gateway._identity import bearer_tokens as bearer_tokens
from workerctx_starlette.gateway._identity import client_certificates as client_certificates

__all__ = ["Authenticate", "Gateway", "GatewayConfig", "Identity", "bearer_tokens", "client_certificates"]
