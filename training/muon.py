"""The optimizers of a chain of convolutions: Muon for the inner weights, AdamW for all other parameters.

Muon (Jordan et al., 2024; torch.optim.Muon) makes updates orthogonal, so that a layer's weak directions learn as fast
as its strong ones. After 1,500 steps of fine-tuning on the same batches it was 0.03 to 0.04 dB better than AdamW
(benchmarks/LOG.md).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.network import Compact


class ConvolutionMuon(torch.optim.Muon):
    """torch's Muon takes matrices; it gets each convolution's weight as a view of (out, 9·in)."""

    def __init__(self, weights: Sequence[Tensor], lr: float) -> None:
        self._weights = weights
        # Adjusted so that rates mean the same as in AdamW.
        super().__init__([_matrix(w.detach()) for w in weights], lr=lr, weight_decay=0, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Any = None) -> Any:
        for matrix, weight in zip(self.param_groups[0]["params"], self._weights, strict=True):
            assert matrix.data_ptr() == weight.data_ptr(), "the weights were moved after the optimizer was made"
            assert weight.grad is not None
            matrix.grad = _matrix(weight.grad)
        return super().step(closure)  # type: ignore[no-untyped-call]


def optimizers(net: Compact, lr: float) -> list[torch.optim.Optimizer]:
    """Call it after `net` was moved to its device and to channels-last memory."""
    inner = [module.weight for module in net.modules() if isinstance(module, nn.Conv2d)][1:-1]
    rest = [parameter for parameter in net.parameters() if not any(parameter is each for each in inner)]
    return [ConvolutionMuon(inner, lr), torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0, fused=True)]


def _matrix(weight: Tensor) -> Tensor:
    """(out, in, 3, 3), channels last → (out, 9·in), the same memory."""
    return weight.permute(0, 2, 3, 1).flatten(1)
