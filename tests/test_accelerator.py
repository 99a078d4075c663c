"""What can be known of a GPU without one: where tensors lie, that no step waits for it, and the compiled step.

Under `FakeTensorMode` tensors have shapes, types and devices, but no values. What mixes devices raises, and so does
what needs a value on the host.
"""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sslbook import metrics, training
from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import (
    BYOL,
    CRVAE,
    DINO,
    VAE,
    BarlowTwins,
    Batch,
    BetaVAE,
    DeepCluster,
    MatchingGap,
    MoCo,
    SimCLR,
    SimSiam,
    SimVAE,
    Supervised,
    SwAV,
    VICReg,
)
from sslbook.models import MLP, ConvDecoder, GaussianResNet, MLPDecoder, ResNet
from sslbook.optim import Adam
from sslbook.views import PRESETS, PerView, Policy

GRAY = Policy(crop=(0.4, 1), flip=0.5, jitter=(0, 0, 0, 0), grayscale=0, vertical=0.5, blur=0.5)
POLICIES = PRESETS | {"gray": GRAY, "each its own": PerView((PRESETS["large"], PRESETS["small"]))}
PLAIN = MLPDecoder((16,))
METHODS = {
    "SimCLR": (ResNet(8, (1, 1)), SimCLR(widths=(16,))),
    "SimCLR, NT-Xent, no head": (ResNet(8, (1, 1)), SimCLR(widths=(), loss="nt_xent")),
    "MatchingGap": (ResNet(8, (1, 1)), MatchingGap(widths=(16,))),
    "MatchingGap, three views": (ResNet(8, (1, 1)), MatchingGap(widths=(16,), views=3)),
    "VICReg": (ResNet(8, (1, 1)), VICReg(widths=(16, 16))),
    "BarlowTwins": (ResNet(8, (1, 1)), BarlowTwins(widths=(16, 16))),
    "BYOL": (ResNet(8, (1, 1)), BYOL(widths=(16,), predictor=(8,))),
    "SimSiam": (ResNet(8, (1, 1)), SimSiam(widths=(16,), predictor=(8,))),
    "MoCo": (ResNet(8, (1, 1)), MoCo(widths=(16,), queue=24)),
    "SwAV": (ResNet(8, (1, 1)), SwAV(widths=(16,), prototypes=6)),
    "DeepCluster": (ResNet(8, (1, 1)), DeepCluster(widths=(16,), prototypes=6, queue=24)),
    "DINO": (ResNet(8, (1, 1)), DINO(widths=(16,), prototypes=6)),
    "Supervised": (ResNet(8, (1, 1)), Supervised()),
    "VAE": (MLP(4, (16,)), VAE(decoder=PLAIN)),
    "VAE, binary": (MLP(4, (16,)), VAE(decoder=PLAIN, likelihood="bernoulli", binarised=True)),
    "BetaVAE": (MLP(4, (16,)), BetaVAE(decoder=PLAIN)),
    "CRVAE": (MLP(4, (16,)), CRVAE(decoder=PLAIN)),
    "SimVAE": (MLP(4, (16,)), SimVAE(decoder=PLAIN, likelihood="scaled_bernoulli")),
    "SimVAE, convolutions": (
        GaussianResNet(dim=8, stem=8, widths=(8, 8, 8)),
        SimVAE(decoder=ConvDecoder(start=8, widths=(8, 8, 8))),
    ),
}


def config(name, policy="large") -> Config:
    encoder, method = METHODS[name]
    parts = {"views": POLICIES[policy], "encoder": encoder, "method": method, "optim": Adam()}
    return Config(data=Data("shapes"), epochs=1, batch_size=8, **parts)


class Reads(TorchDispatchMode):
    """Answers whoever reads a value on the host, as if all conditions were true and all numbers 1, and counts."""

    def __init__(self):
        super().__init__()
        self.count, self.sizes = 0, WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
            kind = bool if args[0].dtype == torch.bool else float if args[0].is_floating_point() else int
            return kind(self.sizes.get(args[0], 1))
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.sum.default and args[0].dtype == torch.bool:
            self.sizes[result] = args[0].numel()
        return result


def another(module: nn.Module) -> nn.Module:
    """A module of the same shapes, where `copy.deepcopy` would mix fake tensors of two modes."""
    twin = copy.copy(module)
    twin._parameters = {
        name: p if p is None else nn.Parameter(torch.empty_like(p)) for name, p in module._parameters.items()
    }
    twin._buffers = {name: b if b is None else b.clone() for name, b in module._buffers.items()}
    twin._modules = {name: another(part) for name, part in module._modules.items()}
    return twin


def test_no_method_is_forgotten():
    import sslbook.methods as known

    parts = {name for name in known.__all__ if hasattr(getattr(known, name), "build")}
    assert parts == {type(method).__name__ for _, method in METHODS.values()}


@pytest.mark.parametrize(("name", "policy"), [(name, "large") for name in METHODS] + [("SimVAE", p) for p in POLICIES])
def test_a_step_stays_on_the_gpu_and_reads_nothing_back(name, policy, monkeypatch):
    monkeypatch.setattr(copy, "deepcopy", another)
    run = config(name, policy)
    with FakeTensorMode(), Reads() as reads:
        with torch.device("cuda"):
            method = training.build(run)
        reads.count = 0  # those of building do not matter
        images = torch.empty(8, 1 if policy == "gray" else 3, 32, 32, dtype=torch.uint8, device="cuda")
        k = method.views
        draws = run.views.draw(8 * k, (32, 32), None, "cuda")
        views = run.views.apply(images.repeat(k, 1, 1, 1), draws).unflatten(0, (k, -1))
        noise = method.draw(8, None, "cuda")
        labels, progress = torch.zeros(8, dtype=torch.long, device="cuda"), torch.ones((), device="cuda")
        views = views.expand(-1, -1, 3, -1, -1)
        loss, logs = method.loss(Batch(views, labels, noise, progress))
        method.after_step(0.5)
        tensors = [*draws, views, *noise, loss, *logs.values(), method.encode(views[0])]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}
        assert loss.shape == ()
    assert reads.count == 0


def test_what_mixes_devices_or_reads_a_value_is_noticed():
    with FakeTensorMode(), Reads() as reads:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        with pytest.raises(Exception, match=r"[Dd]evice"):
            there + here
        assert reads.count == 0 and bool(there.sum() > 0) and reads.count == 1


def features():
    return torch.empty(40, 6, device="cuda")


def labels():
    return torch.zeros(40, dtype=torch.long, device="cuda")


METRICS = {
    "alignment": lambda: metrics.alignment(features(), features()),
    "cka": lambda: metrics.cka(features(), features()),
    "effective_rank": lambda: metrics.effective_rank(features()),
    "energy_rank": lambda: metrics.energy_rank(features()),
    "label_agreement": lambda: metrics.label_agreement(labels(), labels()),
    "pca_unexplained": lambda: metrics.pca_unexplained(features(), 3),
    "rank": lambda: metrics.rank(features(), 0.1),
    "rankme": lambda: metrics.rankme(features()),
    "singular_values": lambda: metrics.singular_values(features()),
    "uniformity": lambda: metrics.uniformity(features()),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_take_features_on_a_gpu(name):
    """Those whose steps have shapes that do not depend on values, which nobody knows here."""
    with FakeTensorMode(), Reads():
        assert isinstance(METRICS[name](), (float, int, torch.Tensor))


def gradients(method, loss):
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, allow_unused=True) if g is not None])


INDUCTOR = [
    pytest.mark.slow,
    pytest.mark.skipif(
        " " in torch.__file__, reason="Inductor calls the C++ compiler with paths that must not contain a space"
    ),
]
each_backend = pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=INDUCTOR)])
PHASES = (0.1, 0.2, 0.9)
"""Of three steps, the last one in a later phase of training."""


def compiled(function, backend):
    return torch.compile(function, fullgraph=True, backend=backend)


def views_of(policy, generator, apply, k=2):
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return apply(images.repeat(k, 1, 1, 1), policy.draw(8 * k, (32, 32), generator, "cpu"))


@each_backend
@torch._dynamo.config.patch(error_on_recompile=True)
def test_compiled_views_are_one_graph_that_is_kept_and_computes_the_same(backend):
    torch.compiler.reset()
    policy = POLICIES["large"]
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    apply = compiled(policy.apply, backend)
    seen = [views_of(policy, one, apply) for _ in PHASES]
    for views in seen:
        torch.testing.assert_close(views, views_of(policy, other, policy.apply), rtol=0, atol=1e-5)
    assert not torch.equal(seen[0], seen[1])


@each_backend
@pytest.mark.parametrize("name", METHODS)
@torch._dynamo.config.patch(error_on_recompile=True)
def test_a_compiled_loss_is_one_graph_that_is_kept_and_computes_the_same(name, backend):
    torch.compiler.reset()
    run = config(name)
    method = training.build(run)
    loss_of = compiled(method.loss, backend)
    generator, seen = torch.Generator().manual_seed(1), []
    for progress in PHASES:
        batch = Batch(
            views_of(run.views, generator, run.views.apply, method.views).unflatten(0, (method.views, -1)),
            torch.zeros(8, dtype=torch.long),
            method.draw(8, generator, "cpu"),
            torch.full((), progress),
        )
        state = {key: value.clone() for key, value in method.state_dict().items()}
        expected, _ = method.loss(batch)
        slope = gradients(method, expected)
        method.load_state_dict(state)
        found, _ = loss_of(batch)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert (gradients(method, found) - slope).norm() <= 1e-3 * slope.norm()
        seen.append(found.item())
    assert len(set(seen)) == 3
