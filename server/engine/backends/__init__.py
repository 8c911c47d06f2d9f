"""The ways to run networks. To add one: a module with a class as `base.Backend` describes it, and its line here."""

from server.engine.backends.base import Backend
from server.engine.backends.batched import BatchedBackend
from server.engine.backends.eager import Eager
from server.engine.backends.fused import Fused
from server.engine.backends.graphs import Graphs
from server.engine.backends.native import NativeBackend
from server.engine.runtime import Runtime

__all__ = ["Backend", "open_backends"]


def open_backends(runtime: Runtime, batch_pixels: int | None = None) -> tuple[Backend, ...]:
    """All backends, in the order in which they are asked whether they run a model."""
    graphs = Graphs(runtime.device)
    return (
        NativeBackend(runtime),
        BatchedBackend(runtime, Eager(graphs), graphs, batch_pixels),
        BatchedBackend(runtime, Fused(graphs), graphs, batch_pixels),
    )
