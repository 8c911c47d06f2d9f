"""A device that stands in for a GPU: CUDA's rules, on tensors of the CPU.

It is as late as CUDA may be. Work on a side stream runs when somebody waits for it, so a copy reads what is in its
source then; new memory has arbitrary content; a graph's replay overwrites the tensors of its recording. It refuses what
CUDA refuses: operations between host and device tensors, and NumPy on device tensors. It says nothing about speed, and
nothing about how a GPU rounds.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GB = 1 << 30
CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_MIXES = {
    "copy_",
    "_has_compatible_shallow_copy_type",
    "__set__",
    "__get__",
    "__getitem__",
    "__setitem__",
    "type_as",
    "to",
}
"""What may take tensors of host and device together."""
_GARBAGE = 77


class FakeDevice:
    """Replaces `torch.cuda`. Tests set the attributes; `before` is called before each operation and may raise."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.free, self.total = 20 * GB, 24 * GB
        self.peak = GB
        """What the network takes in the books."""
        self.name, self.capability = "Stand-in", (8, 6)
        self.archs = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
        self.seen_by_nvml = self.seen_by_cuda = 1
        self.init_error: Exception | None = None
        self.capture_error: Exception | None = None
        self.before: Callable[[str], None] = lambda _: None
        self.events: list[Event] = []
        self.copies = 0
        """Copies from the device to the host."""
        self.captures: list[tuple[Any, Any]] = []
        """Pool and stream of each."""
        self.emptied = 0
        self.hung = threading.Event()
        """While it is set, no event is reached."""
        self.never = threading.Event()
        """For what must hang until the test has ended."""
        self.default = Stream(self)
        self._local = threading.local()
        self._mine: set[int] = set()
        self._patch(patch)

    # --- streams -----------------------------------------------------------------------------------------------------

    @property
    def stream(self) -> "Stream":
        current: Stream = getattr(self._local, "stream", self.default)
        return current

    @contextmanager
    def on(self, stream: "Stream | None") -> Iterator[None]:
        before = self.stream
        self._local.stream = stream or before
        try:
            yield
        finally:
            self._local.stream = before

    # --- tensors -----------------------------------------------------------------------------------------------------

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._mine

    def _take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._mine:
            self._mine.add(key)
            weakref.finalize(storage, self._mine.discard, key)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation of torch."""
        name = getattr(func, "__name__", "")
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        held = [self.holds(each) for each in tensors]
        if name == "__get__":
            if held[:1] == [True] and func == torch.Tensor.device.__get__:
                return CUDA
            if held[:1] == [True] and func == torch.Tensor.is_cuda.__get__:
                return True
            return func(*args, **kwargs)
        if name == "_parse_to" or func is torch.device:  # only arguments
            return func(*args, **kwargs)
        if any(held):
            self.before(name)
        if name in ("numpy", "__array__") and held[0]:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name == "pin_memory":
            return tensors[0].clone()
        pinned = kwargs.pop("pin_memory", False)
        places = [each for each in tree_leaves((args, kwargs)) if _is_place(each)]
        wanted = next((torch.device(each).type for each in places), None) if name != "load" else None
        args, kwargs = tree_map(lambda each: _CPU if _is_cuda(each) else each, (args, kwargs))
        if name in ("to", "cpu", "cuda") and (wanted or name != "to"):
            return self._moved(func, args, kwargs, held[0], name == "cuda" or wanted == "cuda")
        if name == "copy_" and held != [held[0]] * len(held):
            return self._copied(*args[:2])
        large = [mine for each, mine in zip(tensors, held, strict=True) if each.dim()]
        if name not in _MIXES and any(large) and not all(large):
            raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")
        result = func(*args, **kwargs)
        if name in ("empty", "empty_like", "new_empty") and result.device.type == "cpu":
            result.fill_(_GARBAGE)
        if not pinned and (wanted == "cuda" or (wanted is None and any(held))):
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    self._take(each)
        tape = getattr(self._local, "tape", None)
        if tape is not None and any(held):
            tape.append((func, args, kwargs, result))
        return result

    def runs_triton(self, patch: pytest.MonkeyPatch) -> None:
        """Our own kernels, in Triton's interpreter: launched again at each replay of a graph that they are part of."""
        from triton.runtime.interpreter import GridExecutor

        launch = GridExecutor.__call__

        def launched(*args: Any, **kwargs: Any) -> None:
            tensors = [each for each in args if isinstance(each, Tensor)]
            assert all(self.holds(each) for each in tensors), "a kernel got memory of the host"
            with torch._C.DisableTorchFunction():  # the interpreter works on the memory itself
                launch(*args, **kwargs)
            if (tape := getattr(self._local, "tape", None)) is not None:
                tape.append((launch, args, kwargs, None))

        patch.setattr(GridExecutor, "__call__", launched)

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], held: bool, to_device: bool) -> Tensor:
        source = args[0]
        later = kwargs.pop("non_blocking", False) or any(each is True for each in args[1:])
        moved: Tensor = func(*args, **kwargs)
        if held == to_device:
            if held:
                self._take(moved)
            return moved
        moved = moved.clone()
        if to_device:
            self._take(moved)
        else:
            self.copies += 1
        if later and self.stream is not self.default:
            value = source.to(moved.dtype)
            moved.fill_(_GARBAGE)
            self.stream.later(lambda: moved.copy_(value))
        return moved

    def _copied(self, target: Tensor, source: Tensor) -> Tensor:
        """Between host and device."""
        if not self.holds(target):
            self.copies += 1
        if self.stream is self.default:
            source = source.clone()  # in order with the network; the host has it later
        self.stream.later(lambda: target.copy_(source))
        return target

    # --- graphs ------------------------------------------------------------------------------------------------------

    @contextmanager
    def capture(self, graph: "Graph", pool: Any = None, stream: Any = None, **_: Any) -> Iterator[None]:
        self.captures.append((pool, stream))
        if self.capture_error is not None:
            raise self.capture_error
        self._local.tape = graph.tape
        try:
            yield
        finally:
            self._local.tape = None

    # --- torch.cuda --------------------------------------------------------------------------------------------------

    def _init(self) -> None:
        if self.init_error is not None:
            raise self.init_error

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        fake = self
        facts = SimpleNamespace(
            total_memory=self.total, uuid="0000-1", name=self.name, major=8, minor=6, multi_processor_count=2
        )

        def emptied() -> None:
            fake.emptied += 1

        replaced: dict[str, Any] = {
            "Stream": lambda *_, **__: Stream(fake),
            "Event": lambda **kwargs: Event(fake, **kwargs),
            "stream": self.on,
            "device": lambda _: self.on(None),
            "current_stream": lambda _=None: fake.stream,
            "CUDAGraph": Graph,
            "graph": self.capture,
            "graph_pool_handle": lambda: object(),
            "init": self._init,
            "is_available": lambda: fake.seen_by_cuda > 0 and fake.init_error is None,
            "device_count": lambda: fake.seen_by_nvml,
            "empty_cache": emptied,
            "synchronize": lambda _=None: fake.default.flush(),
            "mem_get_info": lambda _=None: (fake.free, fake.total),
            "memory_allocated": lambda _=None: 0,
            "max_memory_allocated": lambda _=None: fake.peak,
            "memory_reserved": lambda _=None: 0,
            "max_memory_reserved": lambda _=None: GB,
            "reset_peak_memory_stats": lambda _=None: None,
            "get_device_properties": lambda _=None: SimpleNamespace(**{**vars(facts), "total_memory": fake.total}),
            "get_device_name": lambda _=None: fake.name,
            "get_device_capability": lambda _=None: fake.capability,
            "get_arch_list": lambda: fake.archs,
            "is_bf16_supported": lambda *_, **__: fake.capability >= (8, 0),
        }
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr("server.engine.memory.WARMED", (8, 24))  # a CPU is slow
        patch.setattr(torch.Tensor, "record_stream", lambda *_: None)  # the fake never uses memory again
        run = threading.Thread.run

        def with_mode(thread: threading.Thread) -> None:
            with _Mode(fake):
                run(thread)

        patch.setattr(threading.Thread, "run", with_mode)


class Stream:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self._pending: list[Callable[[], Any]] = []
        self._lock = threading.RLock()

    def later(self, work: Callable[[], Any]) -> None:
        with self._lock:
            self._pending.append(work)

    def flush(self) -> None:
        with self._lock, torch.inference_mode(), torch._C.DisableTorchFunction():
            while self._pending:
                self._pending.pop(0)()

    synchronize = flush

    def wait_stream(self, other: "Stream") -> None:
        if other is not self._device.default:
            other.flush()

    def wait_event(self, event: "Event") -> None:
        event.reach()


class Event:
    def __init__(self, device: FakeDevice, enable_timing: bool = False, blocking: bool = False) -> None:
        self.blocking, self._device, self._stream = blocking, device, device.default
        device.events.append(self)

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or self._device.stream

    def query(self) -> bool:
        return not self._device.hung.is_set()

    def reach(self) -> None:
        self._stream.flush()

    def synchronize(self) -> None:
        while self._device.hung.is_set():
            self._device.hung.wait(0.01)
        self.reach()

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


class Graph:
    """The operations of a capture; a replay runs them again and writes their results to the same tensors."""

    def __init__(self) -> None:
        self.tape: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    @torch.inference_mode()
    def replay(self) -> None:
        with torch._C.DisableTorchFunction():
            for func, args, kwargs, result in self.tape:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Mode(TorchFunctionMode):
    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._device.call(func, tuple(args), dict(kwargs or {}))


def _is_place(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu"))


def _is_cuda(value: Any) -> bool:
    return _is_place(value) and torch.device(value).type == "cuda"


@contextmanager
def fake_cuda() -> Iterator[FakeDevice]:
    """In this thread, and in those that start meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        device = FakeDevice(patch)
        with _Mode(device):
            yield device
        device.hung.clear()
        device.never.set()
