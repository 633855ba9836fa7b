"""A request meets a handler: the registry, typed enqueueing, injection, and the layers around a run."""

from workerctx.service.branch import AnyHandler as AnyHandler
from workerctx.service.cancel import JobCancel as JobCancel
from workerctx.service.handle import TypedJobHandle as TypedJobHandle
from workerctx.service.handler import FunctionHandler as FunctionHandler
from workerctx.service.handler import JobHandler as JobHandler
from workerctx.service.inject import From as From
from workerctx.service.inject import FromRequest as FromRequest
from workerctx.service.inject import injected as injected
from workerctx.service.jobctx import JobCtx as JobCtx
from workerctx.service.jobctx import SyncJobCtx as SyncJobCtx
from workerctx.service.options import HandlerOptions as HandlerOptions
from workerctx.service.process import Processes as Processes
from workerctx.service.processctx import ProcessCtx as ProcessCtx
from workerctx.service.registration import Registration as Registration
from workerctx.service.registry import JobRegistry as JobRegistry
from workerctx.service.request import DataMap as DataMap
from workerctx.service.request import Request as Request
from workerctx.service.router import CallableRouter as CallableRouter
from workerctx.service.router import DefaultRouter as DefaultRouter
from workerctx.service.router import KindPrefixRouter as KindPrefixRouter
from workerctx.service.router import Router as Router
from workerctx.service.sending import EnqueueHook as EnqueueHook
from workerctx.service.sending import SendRequests as SendRequests
from workerctx.service.site import Site as Site
from workerctx.service.sync import SyncJobHandle as SyncJobHandle
from workerctx.service.sync import SyncJobs as SyncJobs
from workerctx.service.tenancy import TenantScopeProvider as TenantScopeProvider

__all__ = [
    "AnyHandler",
    "CallableRouter",
    "DataMap",
    "DefaultRouter",
    "EnqueueHook",
    "From",
    "FromRequest",
    "FunctionHandler",
    "HandlerOptions",
    "JobCancel",
    "JobCtx",
    "JobHandler",
    "JobRegistry",
    "KindPrefixRouter",
    "ProcessCtx",
    "Processes",
    "Registration",
    "Request",
    "Router",
    "SendRequests",
    "Site",
    "SyncJobCtx",
    "SyncJobHandle",
    "SyncJobs",
    "TenantScopeProvider",
    "TypedJobHandle",
    "injected",
]
