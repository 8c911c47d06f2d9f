"""A client of upscale-server's own API, for other programs. It needs httpx, and nothing of the server.

    from upscale_client import Client

    with Client("http://127.0.0.1:8000", key="your-key") as client:
        client.upscale("in.png", to="big.png", scale=2)

`AsyncClient` has the same methods, to be awaited. docs/client.md of the server has more examples.
"""

from upscale_client.answers import Job, Model, Models, Plan, Result
from upscale_client.client import AsyncClient, Client
from upscale_client.errors import (
    BadSource,
    Conflict,
    Forbidden,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    ModelNotFound,
    NotFound,
    OutOfMemory,
    ServerFault,
    StillRunning,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
    UnsupportedMedia,
    UpscaleError,
)
from upscale_client.steps import Options, Picture

__all__ = [
    "AsyncClient",
    "BadSource",
    "Client",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobFailed",
    "Model",
    "ModelNotFound",
    "Models",
    "NotFound",
    "Options",
    "OutOfMemory",
    "Picture",
    "Plan",
    "Result",
    "ServerFault",
    "StillRunning",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "UnsupportedMedia",
    "UpscaleError",
]
