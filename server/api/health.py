"""Whether the server runs, is ready, and how it is doing: for load balancers, orchestrators and Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from server.api.dialects.depends import CallerDep, ServiceDep
from server.api.metrics import CONTENT_TYPE, Metrics
from server.api.responses import json_response

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """The process runs. Whether it can do work is not checked."""
    return json_response({"alive": True})


@router.get("/readyz")
def readyz(service: ServiceDep) -> Response:
    """200 while there is a live worker that has verified and loaded its weights; else 503, and the reason in words."""
    found = service.workers()
    workers = [
        {"id": each.id, "device": each.device, "ready": each.ready}
        | ({"problem": each.problem} if each.problem else {})
        for each in found
    ]
    ready = any(each["ready"] for each in workers)
    answer = {"weights_verified": ready, "workers": workers, "jobs": service.counts()}
    if ready:
        return json_response({"ready": True, **answer})
    reason = "no worker has loaded its weights yet" if workers else "no worker is running"
    reason = next((each.problem for each in found if each.problem), reason)
    return json_response({"ready": False, "reason": reason, **answer}, 503)


async def _metrics(request: Request) -> Metrics:
    found: Metrics = request.app.state.metrics
    return found


@router.get("/metrics")
def metrics(caller: CallerDep, metrics: Annotated[Metrics, Depends(_metrics)]) -> Response:
    """For Prometheus, which sends a key like any caller. The numbers are those of all keys together."""
    return Response(metrics.text(), media_type=CONTENT_TYPE)
