"""Losses whose target is made by the method itself: by a momentum encoder, by a queue, by clusters.

Rows belong to images: `p`, `query`, `student` and the first scores are what is trained. Targets are constants: no
gradient passes through them. Half precision is computed in float32 whatever autocast says, float64 stays.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook.config import require, require_number
from sslbook.tensors import floating, paired, promoted, unit


def byol(p: Tensor, z: Tensor) -> Tensor:
    """Squared distance of directions, ‖p̂ − ẑ‖² = 2 − 2 cos(p, z), the mean over images.

    Source: Grill et al. 2020, Eq. 2. Half of it, less 1, is Eq. 1 of SimSiam (Chen and He 2021).

    **Arguments**

    - `p` (N, D): predictions from one view.
    - `z` (N, D): targets from the other view, constants.

    **Returns** a scalar in [0, 4].

    **Raises** `ValueError` if the shapes differ.
    """
    p, z = paired(p, z, least=1)
    return (unit(p) - unit(z.detach())).square().sum(1).mean()


def moco(query: Tensor, key: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of finding an image's own key among it and the keys of a queue.

        −log [exp(q·k/T) / (exp(q·k/T) + Σ_m exp(q·u_m/T))],

    the mean over images, with q, k and u_m the directions of the arguments.

    Source: He et al. 2020, Eq. 1.

    **Arguments**

    - `query` (N, D): outputs for one view.
    - `key` (N, D) and `queue` (M, D): targets from the other view and from other images, constants.
    - `temperature` T, at least 1e-30.

    **Returns** a scalar in nats, at least 0. If all directions are equal it is log(M + 1).

    **Raises** `ValueError` for another temperature, or if the shapes do not match.
    """
    require_number("The temperature", temperature, least=1e-30)
    query, key = paired(query, key, least=1)
    floating("queue", queue)
    require(
        queue.ndim == 2 and queue.shape[1] == query.shape[1],
        f"The queue has the shape {tuple(queue.shape)}; it must be (M, {query.shape[1]}), as the keys are.",
    )
    query, key, queue = unit(query), unit(key.detach()), unit(queue.detach().to(query.dtype))
    with torch.autocast(query.device.type, enabled=False):
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def dino(
    student: Tensor, teacher: Tensor, centre: Tensor, *, student_temperature=0.1, teacher_temperature=0.04
) -> Tensor:
    """Cross-entropy of a student with its teacher, −Σ_k P_k log S_k, the mean over images.

    S = softmax(student/T_s), and the target is P = softmax((teacher − centre)/T_t).

    Source: Caron et al. 2021, Eq. 1 and 2.

    **Arguments**

    - `student` (N, K): outputs for one view.
    - `teacher` (N, K) and `centre` (K,): outputs for the other view and their running mean, constants.
    - `student_temperature` T_s and `teacher_temperature` T_t, at least 1e-30.

    **Returns** a scalar in nats, at least the mean entropy of P, which it reaches where S = P.

    **Raises** `ValueError` for other temperatures, or if the shapes do not match.
    """
    require_number("The student's temperature", student_temperature, least=1e-30)
    require_number("The teacher's temperature", teacher_temperature, least=1e-30)
    student, teacher = paired(student, teacher, least=1)
    floating("centre", centre)
    require(
        centre.shape == student.shape[1:],
        f"The centre has the shape {tuple(centre.shape)}; it must be ({student.shape[1]},), one for each output.",
    )
    target = ((teacher - centre) / teacher_temperature).softmax(1).detach()
    return F.cross_entropy(student / student_temperature, target)


def codes(scores: Tensor, *, epsilon: float, iterations: int = 3) -> Tensor:
    """Assignments of images to prototypes that use all prototypes about equally.

    The columns of exp(scores/ε) and then its rows are scaled to equal sums, `iterations` times. In the limit this is N
    times the plan of optimal transport between uniform weights, with entropy ε.

    Source: Caron et al. 2020, Eq. 3 to 5.

    **Arguments**

    - `scores` (N, K): similarities of images and prototypes.
    - `epsilon`, at least 1e-30. `iterations`, at least 1.

    **Returns** (N, K), rows of sum 1, constants.

    **Raises** `ValueError` for another ε or number of iterations, or scores that are no matrix.
    """
    require_number("epsilon", epsilon, least=1e-30)
    require_number("iterations", iterations, least=1, whole=True)
    floating("scores", scores)
    require(
        scores.ndim == 2 and scores.numel() > 0,
        f"The scores have the shape {tuple(scores.shape)}; they must be (N, K), of images and prototypes.",
    )
    log = promoted(scores.detach()) / epsilon
    for _ in range(iterations):
        log = log.log_softmax(0).log_softmax(1)
    return log.exp()


def swav(scores1: Tensor, scores2: Tensor, *, temperature: float = 0.1, epsilon: float = 0.05) -> Tensor:
    """Each view predicts the other's `codes`: the mean over both views and over images of the cross-entropies.

    The prediction is softmax(scores/temperature).

    Source: Caron et al. 2020, Eq. 1 and 2, where it is the sum over the views.

    **Arguments**

    - `scores1`, `scores2` (N, K): cosines of the projections of both views with the K prototypes.
    - `temperature`, at least 1e-30. `epsilon` as in `codes`.

    **Returns** a scalar in nats, at least 0. If all scores are equal it is log K.

    **Raises** `ValueError` for another temperature or ε, or if the shapes differ.
    """
    require_number("The temperature", temperature, least=1e-30)
    scores1, scores2 = paired(scores1, scores2, least=1)
    target1, target2 = codes(scores1, epsilon=epsilon), codes(scores2, epsilon=epsilon)
    return (F.cross_entropy(scores1 / temperature, target2) + F.cross_entropy(scores2 / temperature, target1)) / 2


def spherical_kmeans(points: Tensor, centroids: Tensor, *, iterations: int = 10) -> Tensor:
    """Centroids after `iterations` of k-means by cosine, from the given ones.

    One iteration assigns each point to the centroid c of largest cosine (the first of several), and replaces each
    centroid by the direction of the sum of the directions of its points. Without empty clusters, no iteration lowers
    the mean cosine of a point with its centroid.

    A cluster that is empty, or whose sum is zero, is filled again: the first such cluster gets the point of the
    smallest cosine with its centroid, the second the next, and so on. Points of zeros have no direction and count for
    nothing. Nothing is drawn, so equal arguments give equal centroids.

    Source: Caron et al. 2020, appendix on DeepCluster-v2, where k-means starts from random points, and empty clusters
    stay as they were.

    **Arguments**

    - `points` (M, D) and `centroids` (K, D), of any length, with K ≤ M; constants.
    - `iterations`, at least 1.

    **Returns** (K, D), rows of unit length, or of zeros where fewer than K points have a direction.

    **Raises** `ValueError` for another number of iterations, or if the shapes do not match.

    >>> points = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-2.0, 0.0]])
    >>> losses.spherical_kmeans(points, points[1:])
    tensor([[ 1.,  0.],
            [-1.,  0.]])
    """
    require_number("iterations", iterations, least=1, whole=True)
    floating("points", points)
    floating("centroids", centroids)
    require(
        points.ndim == centroids.ndim == 2
        and points.shape[1] == centroids.shape[1] > 0 < len(centroids) <= len(points),
        f"The points have the shape {tuple(points.shape)} and the centroids {tuple(centroids.shape)}; they must be "
        "(M, D) and (K, D) with K from 1 to M.",
    )
    points = unit(promoted(points.detach()))
    centroids, k = unit(centroids.detach().to(points.dtype)), len(centroids)
    nothing = (points == 0).all(1)
    with torch.autocast(points.device.type, enabled=False):
        for _ in range(iterations):
            cosines, nearest = (points @ centroids.T).max(1)
            # A product of matrices adds in the same order each time; index_add does not on a GPU.
            members = (nearest[:, None] == torch.arange(k, device=points.device)).to(points.dtype)
            sums = members.T @ points.masked_fill(cosines.isnan()[:, None], torch.nan)  # else a wrong centroid vanishes
            lost = (sums == 0).all(1)
            worst = cosines.masked_fill(nothing, torch.inf).topk(k, largest=False).indices
            spare = points[worst[(lost.cumsum(0) - 1).clamp(min=0)]]
            centroids = torch.where(lost[:, None], spare, unit(sums))
    return centroids


def deepcluster(z1: Tensor, z2: Tensor, centroids: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Each view predicts the cluster of the other: the mean over both views and over images of the cross-entropies.

    The prediction is softmax(cos(z, c_k)/T) over the centroids c_k, and the cluster is that of the largest cosine.

    Source: Caron et al. 2020, appendix on DeepCluster-v2, where the clusters come from an earlier pass over the images.

    **Arguments**

    - `z1`, `z2` (N, D): projections of both views. `centroids` (K, D), constants.
    - `temperature` T, at least 1e-30.

    **Returns** a scalar in nats, at least 0. If all centroids have one direction it is log K.

    **Raises** `ValueError` for another temperature, or if the shapes do not match.
    """
    require_number("The temperature", temperature, least=1e-30)
    z1, z2 = paired(z1, z2, least=1)
    floating("centroids", centroids)
    require(
        centroids.ndim == 2 and centroids.shape[1] == z1.shape[1] and len(centroids) > 0,
        f"The centroids have the shape {tuple(centroids.shape)}; they must be (K, {z1.shape[1]}), as the views are.",
    )
    centroids = unit(centroids.detach().to(z1.dtype))
    with torch.autocast(z1.device.type, enabled=False):
        scores1, scores2 = unit(z1) @ centroids.T, unit(z2) @ centroids.T
    cluster1, cluster2 = scores1.detach().argmax(1), scores2.detach().argmax(1)
    return (F.cross_entropy(scores1 / temperature, cluster2) + F.cross_entropy(scores2 / temperature, cluster1)) / 2
