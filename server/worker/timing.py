"""How long a running job will still take, and what is learnt from it when it has ended.

Times are by a clock that goes at 1/n of the usual speed while the worker runs n jobs: of each second, 1/n is each
job's. So what a job took beside others says what it takes alone. It stands still for a job that waits until tiles of
others have ended, which is then none of the n.
"""

import threading
import time
from collections.abc import Callable

import structlog

from server.images.read.sniff import sniff
from server.job.amounts import Amount, amounts
from server.pipeline import Context
from server.weights.durations import Durations
from server.worker.sharing import Left

log = structlog.get_logger()

_DOUBT = 0.25
"""A job's own pace counts as much as the expected one when this share of the expected time has passed."""
_LATE = 0.1
"""What takes longer than expected is expected to take this share of its time until now."""
_NEVER_0_S = 0.001
_SUSPENDED_S = 120.0
"""The clock is looked at much more often. After such a time the process was stopped, or the machine slept."""


class SharedClock:
    """Seconds, each of which is divided among those that have joined. Time for which the process was suspended is not
    counted. For any thread."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._members = 0
        self._at = now()
        self._ticks = 0.0

    def __call__(self) -> float:
        with self._lock:
            return self._advance()

    def join(self) -> None:
        with self._lock:
            self._advance()
            self._members += 1

    def leave(self) -> None:
        with self._lock:
            self._advance()
            self._members -= 1

    def _advance(self) -> float:
        now = self._now()
        if now - self._at < _SUSPENDED_S:
            self._ticks += (now - self._at) / max(1, self._members)
        self._at = now
        return self._ticks


class JobClock:
    """A job's part of a SharedClock's seconds, which it has joined until `end`. For any thread, but for its methods."""

    def __init__(self, shared: SharedClock) -> None:
        self._shared = shared
        self._stands: tuple[float | None, float] = None, 0.0
        """Since when it stands still, and for how many seconds it has before: replaced as one."""
        shared.join()

    def __call__(self) -> float:
        since, lost = self._stands
        return (self._shared() if since is None else since) - lost

    @property
    def waits(self) -> bool:
        return self._stands[0] is not None

    def wait(self, waits: bool) -> None:
        """The job begins to wait for others, or goes on."""
        since, lost = self._stands
        if waits and since is None:
            self._shared.leave()
            self._stands = self._shared(), lost
        elif not waits and since is not None:
            self._shared.join()
            self._stands = None, lost + self._shared() - since

    def end(self) -> None:
        self.wait(False)
        self._shared.leave()


class Timing:
    """Of one run. It has joined the clock until `end`. `planned_s`, `alone_s`: what the job's own row says, None:
    nothing."""

    def __init__(
        self,
        clock: SharedClock,
        durations: Durations,
        planned_s: float | None,
        *,
        alone_s: float | None = None,
        signed: bool,
    ) -> None:
        self.clock = JobClock(clock)
        self._durations = durations
        self._planned_s = planned_s
        self._alone_s = alone_s or 0.0
        self._signed = signed
        self._parts: tuple[Amount, ...] = ()
        self._expected: dict[str, float] = {}
        self._began = self.clock()

    def left(self, ctx: Context | None) -> float | None:
        """Seconds that the job would still take alone; None if nothing is known. Never 0. For any thread."""
        found = self.parts_left(ctx)
        return None if found is None else found.seconds

    def parts_left(self, ctx: Context | None) -> Left | None:
        """The same, with what others can't do at the same time."""
        taken = self.clock() - self._began
        if ctx is None or ctx.plan is None or not ctx.work:  # what there is to do is not known yet
            if self._planned_s is None:
                return None
            return Left(max(self._planned_s - taken, _LATE * taken, _NEVER_0_S), self._alone_s)
        if not self._expected:
            self._expected = {part.step: self._durations.of(part) or 0.0 for part in self._amounts(ctx)}
        spent = ctx.spent()
        spent["rest"] = max(0.0, taken - sum(spent.values()))
        left = {step: self._step(ctx, step, each, spent) for step, each in self._expected.items()}
        seconds = max(_NEVER_0_S, sum(left.values()))
        part, alone = ctx.work.get("upscale"), left.get("upscale", 0.0)
        undone = 0.0 if part is None else part.work - part.done - part.current
        if part is None or not part.alone or undone <= 0 or alone <= 0:
            return Left(seconds)
        per_work, begun = alone / undone, part.current > 0
        tile = part.alone * per_work
        current = (part.alone - part.current) * per_work if begun else 0.0
        return Left(seconds, alone, tile, min(max(current, 0.0), alone), self.clock.waits)

    def end(self, ctx: Context | None, *, succeeded: bool) -> None:
        """The job has left the machine. If it has succeeded, its times are learnt."""
        taken = self.clock() - self._began
        self.clock.end()
        if not succeeded or ctx is None or ctx.plan is None:
            return
        spent = dict(ctx.shared_seconds)
        spent["rest"] = max(0.0, taken - sum(spent.values()))
        networks = "+".join(ctx.plan.networks) if ctx.loaded else None
        try:
            alone = bool("upscale" in ctx.work and ctx.work["upscale"].alone)
            self._durations.learn(spent, self._amounts(ctx), networks, alone=alone)
        except OSError as error:
            log.warning("what a job took cannot be saved", reason=str(error))

    def _amounts(self, ctx: Context) -> tuple[Amount, ...]:
        """What there is to do, found out once."""
        assert ctx.plan is not None
        if not self._parts:
            mime = sniff(ctx.data) or ""
            self._parts = amounts(
                ctx.plan, ctx.params, mime, creativity=ctx.creativity, planes=ctx.planes, signed=self._signed
            )
        return self._parts

    @staticmethod
    def _step(ctx: Context, step: str, expected: float, spent: dict[str, float]) -> float:
        """Seconds left of one step."""
        taken, done = spent.get(step, 0.0), ctx.done(step)
        if done is None:  # not measured
            return max(expected - taken, _LATE * taken)
        if done >= 1:
            return 0.0
        # What is done is known tile by tile: the time of the current one says nothing yet of the pace.
        part = ctx.work.get(step)
        then = part.taken if part is not None and part.work else taken
        since = max(0.0, taken - then)
        if not expected:  # nothing is known of this network: its own pace is all there is
            left = then / done * (1 - done) if done else 0.0
        else:
            doubt = _DOUBT * expected
            left = expected * (1 - done) * (then + doubt) / (expected * done + doubt)
        return max(left - since, _LATE * since)
