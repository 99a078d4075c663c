"""Methods whose target is made by the method itself: a momentum encoder, a queue, clusters; and supervised training.

Each forward pass takes both views of a batch at once, so batch norm sees all 2N views. A momentum encoder has the
moving average of the weights, and batch norm of its own.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbook import losses
from sslbook.config import Part, require, require_number
from sslbook.data import Info
from sslbook.methods.joint_embedding import Embedding, Headed, Pairwise
from sslbook.methods.method import Method
from sslbook.models import Encoder, projector


@dataclass(frozen=True)
class BarlowTwins(Pairwise, slot="method"):
    """Barlow Twins (Zbontar et al. 2021) with the weight of its paper, and `scale` times the loss.

    The sum over coordinates is large: on CIFAR the scale 0.1 of solo-learn is usual.
    """

    scale: float = 0.1

    def validate(self):
        super().validate()
        self.limit("scale", above=0)

    def pair_loss(self, z1, z2):
        return self.scale * losses.barlow_twins(z1, z2)


class Momentum(Embedding):
    """An `Embedding` with a momentum encoder, whose weights follow by `momentum`."""

    def __init__(self, encoder: Encoder, widths: tuple[int, ...], momentum: float, rising: bool):
        super().__init__(encoder, widths)
        self.slow = nn.Sequential(copy.deepcopy(encoder), copy.deepcopy(self.projector)).requires_grad_(False)
        self.momentum, self.rising = momentum, rising

    @torch.no_grad()
    def targets(self, views: Tensor) -> Tensor:
        """The momentum encoder's projections (2N, D) of views (2, N, C, H, W)."""
        return self.slow(views.flatten(0, 1))

    @torch.no_grad()
    def after_step(self, progress):
        """The slow weights become m · theirs + (1 − m) · those of the encoder and projector.

        If `rising`, 1 − m falls to 0 by half a cosine over training, as BYOL and DINO have it.
        """
        fall = (1 + math.cos(math.pi * progress)) / 2 if self.rising else 1.0
        own = nn.Sequential(self.encoder, self.projector)
        for slow, fast in zip(self.slow.parameters(), own.parameters(), strict=True):
            slow.lerp_(fast, (1 - self.momentum) * fall)


class Predicting(Momentum):
    """BYOL, or SimSiam where there is no momentum encoder: a predictor finds from one view the target of the other."""

    def __init__(self, encoder, widths, predictor: tuple[int, ...], momentum: float | None = None):
        Momentum.__init__(self, encoder, widths, momentum or 0.0, rising=True)
        if momentum is None:
            del self.slow
        self.predictor, self.has_slow = projector(self.dim, (*predictor, self.dim)), momentum is not None

    def loss(self, batch):
        z = self.project(batch.views)
        p1, p2 = map(self.gather, self.predictor(z).chunk(2))
        z1, z2 = map(self.gather, (self.targets(batch.views) if self.has_slow else z.detach()).chunk(2))
        return (losses.byol(p1, z2) + losses.byol(p2, z1)) / 2, {}

    def after_step(self, progress):
        if self.has_slow:
            super().after_step(progress)


@dataclass(frozen=True)
class _Targeted(Headed):
    """What these methods share: a projector, and a `network` that takes the fields of the part by name."""

    network: ClassVar[type[Embedding]]

    def build(self, encoder: Encoder, about: Info) -> Method:
        """The method around `encoder`, with PyTorch's default initialisation."""
        return self.network(encoder, **vars(self))

    def validate(self):
        super().validate()
        for width in getattr(self, "predictor", ()):
            require_number(f"Each width of {type(self).__name__}.predictor", width, least=1, whole=True)
        self.limit(*{"momentum"} & {*vars(self)}, least=0, most=1)
        self.limit(*{"temperature", "epsilon", "teacher_temperature"} & {*vars(self)}, least=1e-30)
        self.limit(*{"queue", "prototypes", "refits"} & {*vars(self)}, least=1)


@dataclass(frozen=True)
class SimSiam(_Targeted, slot="method"):
    """SimSiam (Chen and He 2021): `predictor` holds the widths of the hidden layers of its predictor.

    The loss is that of `losses.byol`, twice the printed one plus 2.
    """

    predictor: tuple[int, ...] = (64,)
    network: ClassVar = Predicting


@dataclass(frozen=True)
class BYOL(_Targeted, slot="method"):
    """BYOL (Grill et al. 2020): as SimSiam, with the projections of a momentum encoder as targets.

    `momentum` is that of the first step. The paper has 0.996 for a thousand epochs; 0.99 is usual on CIFAR.
    """

    predictor: tuple[int, ...] = (64,)
    momentum: float = 0.99
    network: ClassVar = Predicting


class Queueing(Momentum):
    """MoCo: both views look for the momentum encoder's projection of the other among those of earlier batches."""

    def __init__(self, encoder, widths, momentum: float, queue: int, temperature: float):
        super().__init__(encoder, widths, momentum, rising=False)
        self.temperature = temperature
        self.register_buffer("queue", torch.randn(queue, self.dim))

    def loss(self, batch):
        q1, q2 = map(self.gather, self.project(batch.views).chunk(2))
        k1, k2 = map(self.gather, self.targets(batch.views).chunk(2))
        queue = self.queue.clone()
        loss = sum(losses.moco(q, k, queue, temperature=self.temperature) for q, k in ((q1, k2), (q2, k1))) / 2
        with torch.no_grad():
            self.queue.copy_(torch.cat([k1.to(queue.dtype), queue])[: len(queue)])
        return loss, {}


@dataclass(frozen=True)
class MoCo(_Targeted, slot="method"):
    """MoCo (He et al. 2020), symmetric in the views, with a `queue` of so many keys of a momentum encoder.

    A queue of random directions is replaced batch by batch. The paper shuffles batch norm over GPUs; here the momentum
    encoder has batch norm of its own over both views.
    """

    momentum: float = 0.99
    queue: int = 4096
    temperature: float = 0.2
    network: ClassVar = Queueing


class Clustering(Embedding):
    """SwAV: each view predicts the prototypes to which the other is assigned.

    The scores, cosines between projections and prototypes, are computed in the precision of the run.
    """

    def __init__(self, encoder, widths, prototypes: int, temperature: float, epsilon: float):
        super().__init__(encoder, widths)
        self.prototypes = nn.Linear(self.dim, prototypes, bias=False)
        self.temperatures = {"temperature": temperature, "epsilon": epsilon}

    def loss(self, batch):
        directions = F.normalize(self.gather(self.project(batch.views).unflatten(0, (2, -1)).transpose(0, 1)), dim=-1)
        scores = directions @ F.normalize(self.prototypes.weight, dim=1).T
        return losses.swav(*scores.unbind(1), **self.temperatures), {}


@dataclass(frozen=True)
class SwAV(_Targeted, slot="method"):
    """SwAV (Caron et al. 2020) with two views and so many `prototypes`, assigned within the batch.

    The paper has 3,000 prototypes, more than two views, and a queue where batches are small.
    """

    prototypes: int = 128
    temperature: float = 0.1
    epsilon: float = 0.05
    network: ClassVar = Clustering


class Regrouping(Embedding):
    """DeepCluster: each view predicts the other's cluster, of clusters that k-means finds in a queue."""

    def __init__(self, encoder, widths, prototypes: int, queue: int, refits: int, temperature: float):
        super().__init__(encoder, widths)
        self.refits, self.temperature = refits, temperature
        self.register_buffer("queue", torch.zeros(queue, self.dim))
        self.register_buffer("centroids", torch.randn(prototypes, self.dim))
        self.register_buffer("next_centroids", self.centroids.clone())
        self.register_buffer("refitted", torch.zeros((), dtype=torch.long))

    def loss(self, batch):
        z1, z2 = map(self.gather, self.project(batch.views).chunk(2))
        loss = losses.deepcluster(z1, z2, self.centroids.clone(), temperature=self.temperature)
        with torch.no_grad():
            self.queue.copy_(torch.cat([z1.to(self.queue.dtype), self.queue])[: len(self.queue)])
        return loss, {}

    @torch.no_grad()
    def after_step(self, progress):
        """One iteration of k-means; its centroids are taken over where another share 1/refits of training is done.

        In the first share they are taken over in each step. Whether one is due is decided on the device.
        """
        self.next_centroids.copy_(losses.spherical_kmeans(self.queue, self.next_centroids, iterations=1))
        shares = math.floor(progress * self.refits)
        self.centroids.copy_(torch.where(self.refitted < max(shares, 1), self.next_centroids, self.centroids))
        self.refitted.fill_(shares)


@dataclass(frozen=True)
class DeepCluster(_Targeted, slot="method"):
    """DeepCluster-v2 (Caron et al. 2020, appendix), with a queue in place of the memory of all images.

    Each view predicts, by softmax of its cosines with the centroids over `temperature`, the cluster of the other view.
    Centroids are constants of the loss. They are replaced `refits` times, evenly over training, by those of
    `losses.spherical_kmeans` over a queue. The departures from the paper:

    - The `queue` holds the projections of the last so many first views. The paper remembers one of each image.
    - The pseudo-label is the centroid nearest to the other view now. In the paper it is the one nearest to a view of
      the epoch before, and stays for an epoch.
    - k-means goes on from its last centroids, one iteration a step. The paper starts it afresh from random images
      before each epoch, with ten iterations; `refits` equal to the number of epochs is its rhythm.
    - Empty clusters are filled again; there they stay empty.
    - In the first share of training, 1/refits, the centroids follow k-means in each step, and in the first step they
      are random. The paper fills its memory with the untrained network first.
    - Two views and one set of `prototypes`; the paper has small views too, and three sets of 3,000.
    """

    prototypes: int = 128
    queue: int = 4096
    refits: int = 100
    temperature: float = 0.1
    network: ClassVar = Regrouping

    def validate(self):
        super().validate()
        require(
            self.prototypes <= self.queue,
            f"DeepCluster.prototypes is {self.prototypes}; the queue of {self.queue} must hold at least as many.",
        )


class Distilling(Momentum):
    """DINO: the student's distribution over outputs for one view follows the momentum encoder's for the other."""

    def __init__(self, encoder, widths, prototypes: int, momentum: float, temperature, teacher_temperature):
        super().__init__(encoder, (*widths, prototypes), momentum, rising=True)
        self.temperatures = {"student_temperature": temperature, "teacher_temperature": teacher_temperature}
        self.register_buffer("centre", torch.zeros(prototypes))

    def loss(self, batch):
        s1, s2 = map(self.gather, self.project(batch.views).chunk(2))
        t1, t2 = map(self.gather, self.targets(batch.views).chunk(2))
        centre = self.centre.clone()
        loss = sum(losses.dino(s, t, centre, **self.temperatures) for s, t in ((s1, t2), (s2, t1))) / 2
        with torch.no_grad():
            self.centre.lerp_(torch.cat([t1, t2]).to(centre.dtype).mean(0), 0.1)
        return loss, {}


@dataclass(frozen=True)
class DINO(_Targeted, slot="method"):
    """DINO (Caron et al. 2021) with two views and so many `prototypes`, the outputs of student and teacher.

    The teacher's outputs are centred by their moving average, of momentum 0.9. Its paper has 65,536 outputs of unit
    weights, and many small views.
    """

    prototypes: int = 128
    momentum: float = 0.99
    temperature: float = 0.1
    teacher_temperature: float = 0.04
    network: ClassVar = Distilling


class Classifying(Method):
    """A linear classifier on top of the encoder."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder, self.classifier = encoder, nn.Linear(encoder.dim, classes)

    def loss(self, batch):
        scores = self.classifier(self.encoder(batch.views.flatten(0, 1))).float().unflatten(0, (2, -1))
        rows = [F.cross_entropy(view, batch.labels, reduction="none") for view in scores]
        return self.gather(torch.stack(rows, dim=1)).mean(), {}

    def encode(self, images):
        return self.encoder(images)


@dataclass(frozen=True)
class Supervised(Part, slot="method"):
    """Cross-entropy of the fine classes on both views: what labels give, beside what is learnt without them."""

    def build(self, encoder: Encoder, about: Info) -> Method:
        """The method around `encoder`, with PyTorch's default initialisation."""
        return Classifying(encoder, about.classes)
