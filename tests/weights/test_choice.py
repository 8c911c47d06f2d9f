"""The policy of weights/README.md, row by row."""

import pytest

from server.errors import InvalidField
from server.job import Params
from server.weights.choice import DeviceKind, Shares, choose

FID, PERC = "fidelity-x4", "perceptual-x4"
GENERAL, GRAINY = "realesr-general-x4v3", "realesr-general-wdn-x4v3"
X4, X2 = "RealESRGAN_x4plus", "RealESRGAN_x2plus"

OURS = (FID, PERC)
ALL = (*OURS, GENERAL, GRAINY, X4, X2)


@pytest.mark.parametrize(
    ("device", "present", "creativity", "ratio", "expected"),
    [
        # The bundled pair: creativity -2 ... 0 goes from one to the other.
        ("cpu", OURS, -2.0, 4.0, ((FID, 1.0),)),
        ("cpu", OURS, -1.0, 4.0, ((FID, 0.5), (PERC, 0.5))),
        ("cpu", OURS, -0.8, 4.0, ((FID, 0.4), (PERC, 0.6))),
        ("cpu", OURS, 0.0, 4.0, ((PERC, 1.0),)),
        ("cpu", OURS, 1.5, 4.0, ((PERC, 1.0),)),
        # Who says nothing of it gets what is certain.
        ("cpu", OURS, None, 4.0, ((FID, 1.0),)),
        ("cuda", OURS, None, 4.0, ((FID, 1.0),)),
        ("cuda", ALL, None, 4.0, ((X4, 1.0),)),
        # Without the perceptual one.
        ("cpu", (FID,), -2.0, 4.0, ((FID, 1.0),)),
        ("cpu", (FID,), 0.0, 4.0, ((FID, 1.0),)),
        ("cuda", (FID,), 0.0, 4.0, ((FID, 1.0),)),
        # On the CPU the large ones are too slow, whatever is installed.
        ("cpu", ALL, 0.0, 2.0, ((PERC, 1.0),)),
        ("cpu", ALL, 0.0, 4.0, ((PERC, 1.0),)),
        # On a GPU the large ones, by what is asked for.
        ("cuda", ALL, 0.0, 4.0, ((X4, 1.0),)),
        ("cuda", ALL, 2.0, 10.0, ((X4, 1.0),)),
        ("cuda", ALL, 0.0, 2.0, ((X2, 1.0),)),
        ("cuda", ALL, 0.0, 2.01, ((X4, 1.0),)),
        ("cuda", (*OURS, X4), 0.0, 1.5, ((X4, 1.0),)),
        ("cuda", (*OURS, X2), 0.0, 4.0, ((PERC, 1.0),)),
        ("cuda", (*OURS, X2), 0.0, 1.5, ((X2, 1.0),)),
        # But none that invents when nothing shall be invented.
        ("cuda", ALL, -0.01, 4.0, ((FID, 0.005), (PERC, 0.995))),
        ("cuda", ALL, -2.0, 2.0, ((FID, 1.0),)),
    ],
)
def test_auto(
    device: DeviceKind, present: tuple[str, ...], creativity: float | None, ratio: float, expected: Shares
) -> None:
    params = Params(scale=4, creativity=creativity)
    assert choose(params, ratio=ratio, device=device, present=present) == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", [FID, X4, "of-my-own"])
def test_a_name_always_wins(device: DeviceKind, name: str) -> None:
    for creativity in (-2.0, 0.0, 2.0):
        params = Params(scale=4, model=name, creativity=creativity)
        assert choose(params, ratio=2, device=device, present=()) == ((name, 1.0),)


@pytest.mark.parametrize("model", ["auto", GENERAL])
@pytest.mark.parametrize(
    ("denoise", "expected"),
    [
        (0.0, ((GRAINY, 1.0),)),
        (0.3, ((GENERAL, 0.3), (GRAINY, 0.7))),
        (0.5, ((GENERAL, 0.5), (GRAINY, 0.5))),
        (1.0, ((GENERAL, 1.0),)),
    ],
)
def test_denoise_mixes_the_general_network_with_its_grainy_twin(model: str, denoise: float, expected: Shares) -> None:
    params = Params(scale=4, model=model, denoise=denoise)
    assert choose(params, ratio=4, device="cuda", present=ALL) == expected


def test_denoise_is_refused_where_there_is_none() -> None:
    for name in (FID, X4, GRAINY):
        with pytest.raises(InvalidField, match=f"^{name} has no denoise strength") as caught:
            choose(Params(scale=4, model=name, denoise=0.5), ratio=4, device="cpu", present=ALL)
        assert caught.value.field == "denoise"


def test_a_sliding_caller_makes_few_networks_and_shares_are_whole() -> None:
    seen = set()
    for step in range(2001):
        params = Params(scale=4, creativity=-2 + step / 1000)
        shares = choose(params, ratio=4, device="cpu", present=OURS)
        assert sum(share for _, share in shares) == pytest.approx(1, abs=1e-12)
        seen.add(shares)
    assert len(seen) == 201
