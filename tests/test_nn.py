"""Networks against the paper's tables, an independent implementation, and their own definitions."""

from __future__ import annotations

import warnings

import pytest
import torch

from lwd.nn.hypernetwork import SIZES, Hypernetwork, make_decoder
from lwd.nn.policy import PolicyShape
from lwd.nn.unet1d import SIZES as UNET
from lwd.nn.unet1d import FoldedUNet, UNet1d


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("size", "millions"), [("xs", 3.95), ("s", 7.82), ("m", 15.58), ("l", 31.16)])
def test_hypernetwork_sizes_are_those_of_table_5(size: str, millions: float) -> None:
    shape = PolicyShape([39, 256, 256, 4])
    assert shape.count == 77_060
    assert count(Hypernetwork(256, shape, SIZES[size])) / 1e6 == pytest.approx(millions, abs=0.005)


def test_hypernetwork_has_the_layers_of_hypnettorch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hnets = pytest.importorskip("hypnettorch.hnets")
        oracle = hnets.HMLP(
            [[256, 39], [256], [256, 256], [256], [4, 256], [4]],
            uncond_in_size=256,
            cond_in_size=0,
            layers=[100, 100],
            no_cond_weights=True,
            num_cond_embs=0,
            verbose=False,
        )
    ours = Hypernetwork(256, PolicyShape([39, 256, 256, 4]), SIZES["s"])
    assert count(oracle) == count(ours) == 7_818_860
    # same weights in, same weights out: the oracle emits per layer (out, in), ours (in, out)
    linear = [m for m in ours.trunk if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        matrices = [p for p in oracle.parameters() if p.ndim == 2]
        biases = [p for p in oracle.parameters() if p.ndim == 1]
        for source, matrix, bias in zip([*linear, ours.head], matrices, biases, strict=True):
            emitted_by_head = source is ours.head
            matrix.copy_(_reorder(ours.shape, source.weight.T).T if emitted_by_head else source.weight)
            bias.copy_(_reorder(ours.shape, source.bias[None])[0] if emitted_by_head else source.bias)
        z = torch.randn(3, 256)
        emitted = oracle.forward(uncond_input=z, ret_format="sequential")
        split = ours.shape.split(ours(z))
    for b in range(3):
        for layer in range(3):
            torch.testing.assert_close(emitted[b][2 * layer], split[layer][0][b].T, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(emitted[b][2 * layer + 1], split[layer][1][b], atol=1e-5, rtol=1e-5)


def _reorder(shape: PolicyShape, weights: torch.Tensor) -> torch.Tensor:
    """(B, P) of ours, matrices (in, out), to the oracle's order, matrices (out, in)."""
    return torch.cat([part for m, b in shape.split(weights) for part in (m.transpose(1, 2).flatten(1), b)], 1)


def test_batched_policies_equal_single_networks() -> None:
    shape = PolicyShape([3, 16, 8, 2])
    weights, x = torch.randn(5, shape.count), torch.randn(5, 7, 3)
    together = shape.apply(weights, x)
    for b, layers in enumerate(zip(*[list(zip(m, v, strict=True)) for m, v in shape.split(weights)], strict=True)):
        h = x[b]
        for i, (matrix, bias) in enumerate(layers):
            h = h @ matrix + bias
            h = torch.relu(h) if i < 2 else h
        torch.testing.assert_close(together[b], h, atol=1e-4, rtol=1e-4)


KINDS = ("full", "low-rank")


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_emit_usable_policies_that_follow_the_latent(kind: str) -> None:
    torch.manual_seed(0)
    shape = PolicyShape([18, 64, 64, 2])
    decoder, z, x = make_decoder(kind, 16, shape, (50, 50)), torch.randn(64, 16), torch.randn(1, 200, 18).expand(64, -1, -1)
    weights = decoder(z)
    assert weights.shape == (64, shape.count)
    out = shape.apply(weights, x)
    assert 0.1 < out.std() < 1.0 and 0.005 < out.std(0).mean() < 0.5, "as a new MLP, and another one for another latent"
    torch.testing.assert_close(decoder(z[5:7]), weights[5:7])
    weights.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_low_rank_decoders_add_matrices_of_rank_8_to_one_policy() -> None:
    shape, z = PolicyShape([5, 16, 12, 2]), torch.randn(3, 4)
    decoder = make_decoder("low-rank", 4, shape, (10,))
    u, v, c = decoder.head(decoder.trunk(z))[:, : 8 * (5 + 16) + 16].split([5 * 8, 8 * 16, 16], 1)  # type: ignore[operator]
    (matrix, bias), *_ = shape.split(decoder(z))
    (first, shared), *_ = shape.split(decoder.base[None])
    torch.testing.assert_close(matrix, first + u.view(3, 5, 8) @ v.view(3, 8, 16) / 5**0.5)
    torch.testing.assert_close(bias, shared + c)
    for (own, _), (base, _) in zip(shape.split(decoder(z)), shape.split(decoder.base[None]), strict=True):
        change = own - base
        assert (torch.linalg.matrix_rank(change.double(), rtol=1e-4) <= 8).all() and change.abs().max() > 0


def test_new_hypernetwork_emits_usable_policies() -> None:
    shape = PolicyShape([18, 128, 128, 2])
    net = Hypernetwork(64, shape, SIZES["s"])
    out = shape.apply(net(torch.randn(256, 64)), torch.rand(256, 32, 18) * 2 - 1)
    assert 0.02 < out.std() < 2  # of the order of normalised actions: neither dead nor exploding


def test_diffusion_policy_l_has_65_million_parameters() -> None:
    time_dim, down = UNET["l"]
    assert count(UNet1d(2, 2 * 5, down, time_dim)) / 1e6 == pytest.approx(65.35, abs=0.01)


@pytest.mark.parametrize(("latent", "fold"), [(64, 16), (256, 16), (256, 1), (32, 8)])
def test_folded_unet_keeps_the_shape(latent: int, fold: int) -> None:
    net = FoldedUNet(fold, 4, (16, 32, 32), 32)
    assert net(torch.randn(3, latent), torch.tensor([1, 2, 3]), torch.randn(3, 4)).shape == (3, latent)
