"""Notebook 08's shortcuts, on one thread: dense patches, stored features, and SVDD's dual pair by pair."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.svm import OneClassSVM

from ..data import load
from ..features import FeatureExtractor, pooled
from ..methods.one_class import PatchEncoder, SteadyTail, gaussian_kernel, median_distance, svdd_dual
from ..threads import one_thread
from ..weights import DEFAULT_BACKBONE
from . import Row, benchmark, seconds

_SIZE, _STEP, _IMAGES, _FEW = 128, 8, 300, 100
_NU = 0.05


@benchmark("one_class")
@one_thread()
def one_class() -> list[Row]:
    """On solar cells: the patches of an image, a step of fine-tuning, the ball of 300 images."""
    images = load("elpv/mono", _SIZE).train.take(_IMAGES).images()
    return [_patches(images[:1]), _step(images[:_STEP]), *_dual(images)]


@torch.no_grad()
def _patches(image: torch.Tensor) -> Row:
    """All patches of 32 px, every 8 px, in one pass over the image and as a batch of patches."""
    encoder = PatchEncoder(16, 16, 64)
    count = ((_SIZE - 32) // 8 + 1) ** 2

    def apart() -> torch.Tensor:
        patches = F.unfold(image, 32, stride=8)[0].T.reshape(-1, 3, 32, 32)
        return encoder(patches)

    dense = encoder.dense(image, (8, 8))[1].flatten(2)[0].T
    difference = (dense - apart()).abs().max()
    what = f"Patch SVDD, {count} patches of 32 px"
    ours, reference = (seconds(work, 10) for work in (lambda: encoder.dense(image, (8, 8)), apart))
    return Row(what, ours, "each patch encoded", reference, f"differ by {difference:.0e}")


def _step(images: torch.Tensor) -> Row:
    """A step of PANDA on stored features of stride 8, and with the frozen part run again."""
    stem, tail = FeatureExtractor(DEFAULT_BACKBONE, (8,)), SteadyTail(DEFAULT_BACKBONE, 8, (32,))
    (stored,) = stem(images).values()

    def train(maps: torch.Tensor) -> None:
        tail.zero_grad()
        tail(maps)[0].square().mean().backward()

    ours = seconds(lambda: train(stored), 5)
    reference = seconds(lambda: train(next(iter(stem(images).values()))), 5)
    return Row(f"PANDA, a step of {len(images)} images", ours, "frozen part run again", reference)


def _dual(images: torch.Tensor) -> list[Row]:
    """The weights of SVDD's ball, by ours, libsvm and a general solver (which gets fewer images)."""
    vectors = pooled(FeatureExtractor(DEFAULT_BACKBONE, (16, 32))(images)).double()
    vectors = (vectors - vectors.mean(dim=0)) / vectors.std(dim=0)
    kernel = gaussian_kernel(vectors, vectors, median_distance(vectors))
    few = kernel[:_FEW, :_FEW].contiguous()
    svm = OneClassSVM(kernel="precomputed", nu=_NU, tol=1e-8)
    return [
        Row(
            f"SVDD's dual, {len(kernel)} images",
            seconds(lambda: svdd_dual(kernel, _NU)),
            "libsvm",
            seconds(lambda: svm.fit(kernel.numpy())),
        ),
        Row(
            f"SVDD's dual, {len(few)} images",
            seconds(lambda: svdd_dual(few, _NU)),
            "SciPy's SLSQP",
            seconds(lambda: _slsqp(few.numpy()), 1),
        ),
    ]


def _slsqp(kernel: np.ndarray) -> np.ndarray:
    count = len(kernel)
    return minimize(
        lambda a: a @ kernel @ a - a @ kernel.diagonal(),
        x0=np.full(count, 1 / count),
        jac=lambda a: 2 * kernel @ a - kernel.diagonal(),
        bounds=[(0, 1 / (_NU * count))] * count,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    ).x
