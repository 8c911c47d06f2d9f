"""Pictures larger than memory through the autoencoder: parts must not show."""

import torch
from torch import Tensor, nn

from server.refiners.sdxl.autoencoder import Autoencoder
from tests.refiners.networks import vae

WHOLE, PART = 1024, 192
HEIGHT, WIDTH = 256, 320
SCALE = 0.13025


def flat() -> Tensor:
    return torch.tensor([0.4, 0.55, 0.7])[None, :, None, None].expand(1, 3, HEIGHT, WIDTH).contiguous()


def gradient() -> Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    return torch.stack((0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.8 - 0.5 * x * y))[None]


def noise() -> Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def steps(image: Tensor) -> tuple[Tensor, Tensor]:
    """How much each column, and each row, differs from the one before."""
    return (image[..., 1:] - image[..., :-1]).abs().mean((0, 1, 2)), image.diff(dim=2).abs().mean((0, 1, 3))


def test_what_fits_into_one_part_is_what_diffusers_makes_of_it() -> None:
    net, ours = vae(), Autoencoder(vae(), WHOLE)
    picture = gradient()[..., :128, :192]
    latent = net.encode(picture * 2 - 1).latent_dist.mode() * SCALE
    torch.testing.assert_close(ours.encode(picture), latent, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.decode(latent), net.decode(latent / SCALE).sample / 2 + 0.5, atol=1e-5, rtol=1e-4)


def test_a_picture_comes_back_in_its_size() -> None:
    ours = Autoencoder(vae(), PART)
    latent = ours.encode(gradient())
    assert latent.shape == (1, 4, HEIGHT // 8, WIDTH // 8)
    assert ours.decode(latent).shape == (1, 3, HEIGHT, WIDTH)


def test_a_flat_picture_has_the_same_tone_in_parts_and_whole() -> None:
    whole, parts = Autoencoder(vae(), WHOLE), Autoencoder(vae(), PART)
    latent = whole.encode(flat())
    assert (parts.encode(flat()) - latent).abs().max() < 1e-3
    assert (parts.decode(latent) - whole.decode(latent)).abs().max() < 1 / 255


def test_a_gradient_has_no_steps() -> None:
    whole, parts = Autoencoder(vae(), WHOLE), Autoencoder(vae(), PART)
    latent = whole.encode(gradient())
    difference = parts.decode(latent) - whole.decode(latent)
    for differences in steps(difference[..., 64:-64, 64:-64]):  # beyond, the padding makes edges of its own
        assert differences.max() < 1 / 255


def test_without_normalisations_the_parts_are_the_whole() -> None:
    """Nothing is left then but what reaches across borders: how far is known, to the pixel."""

    def made(tile: int) -> Autoencoder:
        net = vae()
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.GroupNorm):
                    setattr(parent, name, nn.Identity())
        return Autoencoder(net, tile)

    whole, parts = made(WHOLE), made(PART)
    latent = whole.encode(noise())
    torch.testing.assert_close(parts.encode(noise()) / latent.std(), latent / latent.std(), atol=1e-4, rtol=0)
    picture = whole.decode(latent)
    torch.testing.assert_close(parts.decode(latent) / picture.std(), picture / picture.std(), atol=1e-4, rtol=0)


def test_no_part_has_a_visible_border() -> None:
    """Against the whole, columns and rows differ nowhere more than elsewhere."""
    whole, parts = Autoencoder(vae(), WHOLE), Autoencoder(vae(), PART)
    latent = whole.encode(noise())
    for differences in steps(parts.decode(latent) - whole.decode(latent)):
        assert differences[8:-8].max() < 2 * differences[8:-8].median()
    for differences in steps(parts.encode(noise()) - latent):
        assert differences[1:-1].max() < 2 * differences[1:-1].median()
