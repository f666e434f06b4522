"""Every concrete detector of `adlearn.methods`, with arguments that make it small enough to test."""

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from typing import Any

import torch

import adlearn.methods
from adlearn.data.base import AnomalyDataset, Benchmark
from adlearn.detector import Detector, FeatureDetector
from adlearn.weights import DEFAULT_BACKBONE


@dataclass(frozen=True)
class Small:
    """How to test a class: constructor arguments; `supervised` if `fit` needs anomalous images too.

    `unlearned` for a detector that scores without `fit` (zero-shot); `no_fake_cuda` gives the reason why its
    `predict` can't run on tensors without values.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    supervised: bool = False
    unlearned: bool = False
    no_fake_cuda: str = ""


# A small student on images.
_STUDENT = {"layers": (4, 8), "epochs": 6, "batch_size": 4}

# A small network of its own on reduced images.
_LENET = {"size": 32, "widths": (4, 8), "code": 8, "contrast": False}
_LENET |= {"pretrain_epochs": 5, "epochs": 10, "batch_size": 2}
# Networks that draw reduced images.
_RESTORER = {"size": 32, "width": 8, "epochs": 20, "batch_size": 2}
_UNET = {"size": 32, "width": 4, "levels": 3, "epochs": 8, "batch_size": 4}
_VAE = {"size": 32, "code": 8, "width": 8, "epochs": 6, "batch_size": 2, "sigma": 1.0}
_GAN = {"size": 32, "code": 8, "width": 4, "epochs": 10, "batch_size": 4, "learning_rate": 2e-3}
# Patches of 8 and 16 px.
_PATCHES = {"patch_size": 8, "width": 8, "dimensions": 16, "strides": (4, 4), "epochs": 2}

# Class name -> how to test it. Every concrete detector of adlearn.methods must be here.
SMALL: dict[str, Small] = {
    "AEKD": Small({"epochs": 15, "code": 32, "widths": (8, 8, 16), "batch_size": 2}),
    "AESc": Small(_RESTORER | {"rates": (0.0, 0.1, 0.2), "passes": 4}),
    "AlignedPaDiM": Small({"num_angles": 24}),
    "AltUB": Small({"steps": 2, "epochs": 3}),
    "AnoGAN": Small(
        _GAN | {"steps": 10}, no_fake_cuda="it searches by gradients, and backward does not work there"
    ),
    "AnoSeg": Small({"width": 4, "epochs": 8, "batch_size": 2}),
    "AST": Small({"kernels": (3, 3), "hidden": 32, "teacher_epochs": 3, "epochs": 6}),
    "AttentDifferNet": Small(
        {"factors": (1, 2), "rotations": 2, "num_blocks": 2, "hidden": 32, "epochs": 10}
    ),
    "AttentionVAE": Small(
        _VAE | {"layer": 1, "epochs": 20},
        no_fake_cuda="its map needs gradients, and backward does not work there",
    ),
    "CAINNFlow": Small({"steps": 2, "epochs": 3}),
    "CDO": Small(_STUDENT),
    "CFA": Small({"epochs": 4}),
    "CFlow": Small({"steps": 2, "epochs": 4, "share": 0.25}),
    "ConvolutionalAutoencoder": Small(_RESTORER | {"code": 8}),
    "CSFlow": Small({"hidden": 8, "kernels": (3, 3), "epochs": 4}),
    "CutPaste": Small({"epochs": 2}),
    "DAF": Small(_STUDENT | {"fill": "noise", "epochs": 8}),
    "DeepSVDD": Small(_LENET),
    "DFKDE": Small(),
    "DFM": Small(),
    "DifferNet": Small({"factors": (1, 2), "rotations": 2, "num_blocks": 2, "hidden": 32, "epochs": 10}),
    "DissectedSimpleNet": Small(
        {"noise_model": "along_covariance", "objective": "bce", "hidden": 64, "epochs": 8}
    ),
    "DRAEM": Small({"widths": (4, 4), "epochs": 12, "batch_size": 2}),
    "DROC": Small({"second": "kde", "epochs": 1, "batch_size": 4}),
    "DS2": Small({"batch_size": 4}),
    "DSPSVDD": Small(_LENET),
    "DSR": Small(
        {
            "codewords": 32,
            "dimensions": 8,
            "hidden": 16,
            "window": 5,
            "similar": 0.3,
            "epochs": 12,
            "batch_size": 2,
            "learning_rate": 5e-3,
        }
        | {"pretraining": {"count": 16, "size": 64, "patch": 32, "epochs": 12, "batch_size": 8}}
    ),
    "EdgRec": Small(_UNET | {"sigma": 1.0, "epochs": 30, "batch_size": 2, "learning_rate": 1e-2}),
    "EfficientAD": Small(
        {"size": 64, "channels": (8, 16, 16, 16), "decoder": (2, 4), "epochs": 8}
        | {"distillation": {"count": 16, "epochs": 2}}
    ),
    "EMMRKD": Small({"epochs": 10, "code": 32, "widths": (8, 8, 16), "batch_size": 2}),
    "FAIR": Small(_UNET | {"epochs": 30}),
    "FAnoGAN": Small(_GAN | {"critic_steps": 2, "encoder_epochs": 10}),
    "FAPM": Small(),
    "FastFlow": Small({"steps": 2, "epochs": 3}),
    "FCDD": Small({"epochs": 8, "batch_size": 4}),
    "FRAnomaly": Small({"steps": 2, "epochs": 3}),
    "FRE": Small(),
    "GANomaly": Small(_GAN | {"width": 8, "epochs": 30}),
    "GCPF": Small({"num_clusters": 3}),
    "GlancingPatch": Small({"epochs": 4}),
    "GNL": Small({"epochs": 10, "code": 32, "widths": (8, 8, 16), "batch_size": 2}),
    "IKD": Small(_STUDENT),
    "KNN": Small(),
    "LDKNN": Small({"coreset_ratio": 0.25}),
    "MaskedFeatureRegeneration": Small({"epochs": 4}),
    "MemKD": Small({"epochs": 10, "code": 32, "widths": (8, 8, 16), "batch_size": 2, "items": 8}),
    "MemSeg": Small({"epochs": 6, "batch_size": 2, "copies": 2}),
    "MKD": Small(_STUDENT, no_fake_cuda="its map is a gradient, and backward does not work there"),
    "MOCCA": Small(_LENET),
    "MSC": Small({"epochs": 2, "batch_size": 4}),
    "MSCDAE": Small({"size": 64, "levels": 2, "epochs": 6, "batch_size": 2, "draws": 8}),
    "MVG": Small({"layers": (8, 16)}),
    "NPad": Small({"num_centroids": 5}),
    "NSA": Small(
        {"blend": "paste", "width": 8, "pool": False, "epochs": 20, "batch_size": 2, "learning_rate": 1e-2}
    ),
    "NST": Small({"steps": 2, "width": 8, "epochs": 30, "batch_size": 4, "learning_rate": 1e-2}),
    "OCRGAN": Small(_GAN),
    "PaDiM": Small({"num_dimensions": 50}),
    "PaintedDefects": Small({"epochs": 6, "batch_size": 4}),
    "PANDA": Small({"epochs": 2, "checkpoints": 2, "batch_size": 4}),
    "PatchCore": Small({"coreset_ratio": 0.25}),
    "PatchCutPaste": Small({"epochs": 2, "patches": 4, "stride": 8}),
    "PatchGaussian": Small(),
    "PatchSVDD": Small(_PATCHES),
    "PEFM": Small({"layers": (8, 16), "second": DEFAULT_BACKBONE, "second_layers": (4, 8), "epochs": 8}),
    "PFM": Small({"layers": (8, 16), "second": DEFAULT_BACKBONE, "second_layers": (4, 8), "epochs": 8}),
    "PixelGaussian": Small(),
    "PNI": Small({"codewords": 16, "epochs": 1}),
    "PredictiveAutoencoder": Small(_UNET | {"block": "ssmctb"}),
    "ProjectedVAE": Small(
        _VAE | {"steps": 4}, no_fake_cuda="its map needs gradients, and backward does not work there"
    ),
    "PyramidFlow": Small({"size": 32, "levels": 3, "stacks": 1, "epochs": 2}),
    "RDPlusPlus": Small({"code": 8, "widths": (8, 8, 8), "epochs": 6}),
    "ReConPatch": Small({"coreset_ratio": 0.25, "dimensions": 32, "epochs": 1}),
    "ReverseDistillation": Small({"code": 8, "widths": (8, 8, 8), "epochs": 6}),
    "RSA": Small(_STUDENT),
    "RSTPM": Small(_STUDENT),
    "SCADN": Small(_GAN | {"stripes": (4, 8)}),
    "SelfSimilarity": Small({"words": 40}),
    "SESVDD": Small(_PATCHES),
    "SimpleNet": Small({"hidden": 64, "epochs": 8}),
    "SkipGANomaly": Small(_GAN),
    "SOE": Small({"num_dimensions": 8}),
    "SOMAD": Small({"epochs": 3}),
    "SPADE": Small({"num_images": 3}),
    "SPD": Small({"batch_size": 4}),
    "SSIMAutoencoder": Small(
        {
            "size": 32,
            "width": 16,
            "code": 8,
            "sigma": 1.0,
            "epochs": 30,
            "batch_size": 4,
            "learning_rate": 3e-3,
        }
    ),
    "SSTAE": Small(_RESTORER | {"rates": (0.0, 0.1, 0.2)}),
    "STFPM": Small({"epochs": 6, "batch_size": 4}),
    "SuperSimpleNet": Small({"epochs": 25, "batch_size": 2}),
    "SVDD": Small(),
    "UFlow": Small({"steps": 2, "epochs": 3, "batch_size": 2}),
    "UniNet": Small({"epochs": 6, "code": 32, "widths": (8, 8, 16), "batch_size": 2}),
    "UninformedStudents": Small(
        {"patch_sizes": (17,), "width": 8, "dimensions": 8, "epochs": 8}
        | {"teacher_images": 16, "teacher_epochs": 2}
    ),
    "UnregularisedVAE": Small(_VAE),
    "VAE": Small(_VAE),
}


# They fit and predict with what a subclass gives.
BASES = ("DCGAN", "FeatureStudent", "FineTuned", "Restorer", "StudentTeacher", "TunedGaussian", "WGANGP")


@dataclass(frozen=True)
class Case:
    """A detector class under test."""

    cls: type[Detector]
    small: Small

    def build(self) -> Detector:
        torch.manual_seed(0)
        return self.cls(**self.small.arguments)

    def training_set(self, tiny: Benchmark) -> AnomalyDataset:
        """Normal images only, or the mixed test images for a supervised method."""
        return tiny.test if self.small.supervised else tiny.train

    def fitted(self, dataset: AnomalyDataset) -> Detector:
        detector = self.build()
        torch.manual_seed(0)
        return detector.fit(dataset).eval()

    def __str__(self) -> str:
        return self.cls.__name__


def discover() -> list[type[Detector]]:
    """Concrete detectors defined in any module of `adlearn.methods`, sorted by name."""
    names = [m.name for m in pkgutil.walk_packages(adlearn.methods.__path__, "adlearn.methods.")]
    modules = [importlib.import_module(name) for name in names]
    found = {c for m in modules for _, c in inspect.getmembers(m, inspect.isclass) if is_concrete(c)}
    return sorted((c for c in found if c.__module__ in names), key=lambda c: c.__name__)


def is_concrete(cls: type) -> bool:
    """Whether both verbs of `cls` lead to code of its own."""
    if cls.__name__ in BASES:
        return False
    if not issubclass(cls, Detector) or cls.fit is Detector.fit or cls.predict is Detector.predict:
        return False
    if cls.fit is FeatureDetector.fit and cls.fit_features is FeatureDetector.fit_features:
        return False
    return cls.predict is not FeatureDetector.predict or (
        cls.score_features is not FeatureDetector.score_features
    )


def missing_from_table(classes: list[type[Detector]]) -> list[str]:
    return [cls.__name__ for cls in classes if cls.__name__ not in SMALL]


def cases() -> list[Case]:
    return [Case(cls, SMALL[cls.__name__]) for cls in discover() if cls.__name__ in SMALL]
