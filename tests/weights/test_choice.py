"""The policy of weights/README.md, row by row."""

import pytest

from server.errors import InvalidField
from server.job.job import Params
from server.weights.choice import REAL_ESRGAN, Choice, DeviceKind, Limits, Shares, choose

FID = "fidelity-x4"
GENERAL, GRAINY = "realesr-general-x4v3", "realesr-general-wdn-x4v3"
X4, X2, ANIME = "RealESRGAN_x4plus", "RealESRGAN_x2plus", "RealESRGAN_x4plus_anime_6B"

SHIPPED = (FID, X4, ANIME, "realesr-animevideov3")
ALL = (*SHIPPED, GENERAL, GRAINY, X2)
LIMIT = Limits(60.0)


def only(name: str) -> Shares:
    return ((name, 1.0),)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("creativity", "network", "fidelity"),
    [
        (-2.0, FID, 1.0),
        (-1.5, X4, 0.75),
        (-1.0, X4, 0.5),
        (-0.2, X4, 0.1),
        (None, X4, 0.0),
        (0.0, X4, 0.0),
        (0.5, X4, 0.0),
        (2.0, X4, 0.0),
    ],
)
@pytest.mark.parametrize("model", ["auto", REAL_ESRGAN])
def test_creativity_goes_from_fidelity_to_the_large_network(
    model: str, creativity: float | None, network: str, fidelity: float, device: DeviceKind
) -> None:
    params = Params(scale=4, creativity=creativity, model=model)
    found = choose(params, device=device, present=SHIPPED, seconds=lambda choice: 59.0, limits=LIMIT)
    assert found == Choice(only(network), fidelity, creativity or 0.0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("ratio", "network"), [(1.5, X2), (2.0, X2), (2.01, X4), (10.0, X4)])
def test_up_to_twice_the_size_the_network_made_for_it_runs_where_it_is_installed(
    ratio: float, network: str, device: DeviceKind
) -> None:
    assert choose(Params(scale=4), ratio=ratio, device=device, present=ALL).weights == only(network)
    assert choose(Params(scale=4), ratio=ratio, device=device, present=SHIPPED).weights == only(X4)


def test_on_a_cpu_auto_takes_the_large_network_only_within_the_limit() -> None:
    for seconds, network in ((59.0, X4), (60.0, X4), (60.1, FID)):
        found = choose(Params(scale=4), present=SHIPPED, seconds=lambda choice, s=seconds: s, limits=LIMIT)  # type: ignore[misc]
        assert found.weights == only(network)
        assert (found.note is None) == (network == X4)
    assert found.note is not None and "about 60 s" in found.note and "UPSCALE_AUTO_LIMIT_S (60)" in found.note
    on_gpu = choose(Params(scale=4), device="cuda", present=SHIPPED, seconds=lambda choice: 600.0, limits=LIMIT)
    assert on_gpu.weights == only(X4)


def test_a_limit_of_nothing_needs_no_estimate() -> None:
    assert choose(Params(scale=4), present=SHIPPED, limits=Limits(0.0)).weights == only(FID)


def test_beyond_the_limit_the_ladder_is_that_of_fidelity_alone() -> None:
    for creativity in (-2.0, -1.0, 0.0, 1.5):
        params = Params(scale=4, creativity=creativity)
        found = choose(params, present=SHIPPED, seconds=lambda choice: 61.0, limits=LIMIT)
        assert (found.weights, found.fidelity, found.creativity) == (only(FID), 1.0, creativity)


def test_the_estimate_is_asked_for_what_would_run() -> None:
    asked: list[Choice] = []

    def seconds(choice: Choice) -> float:
        asked.append(choice)
        return 1.0

    choose(Params(scale=4, creativity=-1), present=SHIPPED, seconds=seconds, limits=LIMIT)
    assert asked == [Choice(only(X4), 0.5, -1.0)]


def test_an_animation_on_a_cpu_gets_the_fast_network_unless_it_names_another() -> None:
    found = choose(Params(scale=4), present=SHIPPED, frames=2, limits=LIMIT)
    assert found.weights == only(FID) and found.note is not None and "animation" in found.note
    assert choose(Params(scale=4), device="cuda", present=SHIPPED, frames=2).weights == only(X4)
    assert choose(Params(scale=4, model=X4), present=SHIPPED, frames=2).weights == only(X4)


@pytest.mark.parametrize("model", [REAL_ESRGAN, X4])
def test_what_names_real_esrgan_runs_it_unless_the_operator_says_otherwise(model: str) -> None:
    params = Params(scale=4, model=model)
    assert choose(params, present=SHIPPED, seconds=lambda choice: 600.0, limits=LIMIT).weights == only(X4)
    limits = Limits(60.0, named=True)
    assert choose(params, present=SHIPPED, seconds=lambda choice: 600.0, limits=limits).weights == only(FID)
    assert choose(params, present=SHIPPED, seconds=lambda choice: 6.0, limits=limits).weights == only(X4)


@pytest.mark.parametrize("model", ["auto", REAL_ESRGAN])
def test_without_the_large_network_everything_still_runs_and_says_so(model: str) -> None:
    found = choose(Params(scale=4, model=model, creativity=0.0), present=(FID,))
    assert found.weights == only(FID) and found.note is not None and "not installed" in found.note


def test_a_clean_screen_is_left_to_fidelity_unless_the_caller_says_what_it_wants() -> None:
    found = choose(Params(scale=4), present=SHIPPED, content="text")
    assert (found.weights, found.creativity) == (only(FID), -2.0)
    assert found.note is not None and "content: photo" in found.note
    for params in (Params(scale=4, creativity=0.0), Params(scale=4, model=REAL_ESRGAN), Params(scale=4, model=X4)):
        assert choose(params, present=SHIPPED, content="text").weights == only(X4)
    for content in ("photo", "drawing"):
        assert choose(Params(scale=4), present=SHIPPED, content=content).weights == only(X4)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [X4, ANIME, "of-my-own"])
def test_a_named_model_takes_the_large_networks_place_in_the_ladder(name: str) -> None:
    for creativity, network, share in ((-2.0, FID, 1.0), (-1.0, name, 0.5), (0.0, name, 0.0), (2.0, name, 0.0)):
        found = choose(Params(scale=4, model=name, creativity=creativity), ratio=2, present=())
        assert (found.weights, found.fidelity) == (only(network), share)
    assert choose(Params(scale=4, model=name), present=()).weights == only(name)
    assert choose(Params(scale=4, model=FID, creativity=-1), present=()) == Choice(only(FID), 1.0, -1.0)


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
    assert choose(params, device="cuda", present=ALL).weights == expected


def test_denoise_is_refused_where_there_is_none() -> None:
    for name in (FID, X4, GRAINY):
        with pytest.raises(InvalidField, match=f"^{name} has no denoise strength") as caught:
            choose(Params(scale=4, model=name, denoise=0.5), present=ALL)
        assert caught.value.field == "denoise"


def test_shares_are_whole() -> None:
    for step in range(2001):
        found = choose(Params(scale=4, creativity=-2 + step / 1000), present=SHIPPED)
        assert 0 <= found.fidelity <= 1 and sum(share for _, share in found.weights) == 1
