"""How much a job's steps have to do, in amounts that their time goes by: for estimates of that time, in both halves."""

from collections.abc import Iterator
from dataclasses import dataclass

from server.job.creativity import recipe
from server.job.job import Params
from server.job.mask import KEPT_CREATIVITY, KEPT_STEP, MASKED
from server.job.plan import Plan


@dataclass(frozen=True)
class Amount:
    step: str
    """Its name in `Result.seconds`."""
    kind: str
    """What takes the same time for the same amount: a network, a format."""
    amount: float
    """Mostly pixels; see `amounts`."""

    @property
    def key(self) -> str:
        return f"{self.step.removeprefix(KEPT_STEP)}:{self.kind}"


def amounts(
    plan: Plan, params: Params, mime: str, *, creativity: float, planes: int = 1, signed: bool = False
) -> tuple[Amount, ...]:
    """Of all steps but the loading of networks. `mime`: the source's; `planes`: how often the picture goes through the
    networks."""
    return tuple(_amounts(plan, params, mime, creativity, planes, signed))


def network_amount(plan: Plan, planes: int = 1) -> Amount:
    """Of the networks that enlarge; not of those whose result a mask keeps."""
    return Amount("upscale", plan.model.partition(MASKED)[0], plan.network_pixels * planes)


def _amounts(plan: Plan, params: Params, mime: str, creativity: float, planes: int, signed: bool) -> Iterator[Amount]:
    source, result = (w * h * plan.frames for w, h in (plan.source, plan.canvas))
    yield Amount("decode", mime, source)
    yield Amount("plan", "any", source / plan.frames)
    if params.sweep:  # of a crop, whose size is always about the same
        yield from (Amount(step, "sweep", 1) for step in ("upscale", "refine", "encode"))
        return
    asked, _, kept = plan.model.partition(MASKED)
    for before, networks, at in (("", asked, creativity), (KEPT_STEP, kept, KEPT_CREATIVITY)):
        if not networks:
            continue
        wanted = recipe(at)
        if plan.passes:
            yield Amount(f"{before}upscale", networks, plan.network_pixels * planes)
            if wanted.diffuses:
                yield Amount(f"{before}refine", "diffusion", result * wanted.steps)
            elif wanted.back_projection:
                yield Amount(f"{before}refine", "strict", result)
        if not plan.passes or plan.passes[-1].result != plan.canvas:
            yield Amount(f"{before}resize", "any", max(source if not plan.passes else 0, result))
    if params.faces is not None:
        yield Amount("faces", "any", source)
    if kept:
        yield Amount("mask", "any", result)
    if params.grain:
        yield Amount("grain", "any", result)
    # While a network computes the next rows, others are encoded: what is left of that is another time.
    beside = "beside a network" if plan.passes else "alone"
    lossless = " lossless" if params.lossless else ""
    deep = " 16" if params.depth == 16 else ""
    yield Amount("encode", f"{params.format}{lossless}{deep} {beside}", result)
    if params.certificate:
        yield Amount("certificate", "any", result)
    if signed:
        yield Amount("sign", params.format, result)
    yield Amount("rest", "any", 1)
