"""anomalib's student-teacher models on the images and weights that `peer_export.py` wrote.

Runs under the Python where anomalib is installed and imports nothing of adlearn (-P keeps this folder off the
front of the import path):

    python -m adlearn.bench.peer_export FOLDER elpv/mono factory/steel --size 128 --limit 100 --penalty 200
    python -P adlearn/bench/peer_anomalib_students.py FOLDER result.json [--only stfpm] [--epochs 20]

Networks, losses, maps and scores are anomalib's; so are the optimizers, taken from its Lightning classes,
where the settings name no other. The loop is ours, as their constructors download weights. The backbone is
ours, on inputs with mean and deviation 0.5. Two things do not fit it. The decoders of ReverseDistillation
and UniNet want ResNet-18's 64, 128 and 256 channels: ours are filled up with zeros, which changes no
cosine. And they end in a ReLU, as ResNet's layers do and EfficientNet's do not, so they cannot restore a
negative feature: "linear heads" adds a 1x1 convolution behind each level. EfficientAd's networks take the
widths of the given teacher.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from anomalib.models import EfficientAd, ReverseDistillation, Stfpm, UniNet
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.image.efficient_ad import torch_model as efficientad_model
from anomalib.models.image.reverse_distillation import torch_model as reverse_model
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
from anomalib.models.image.stfpm import torch_model as stfpm_model
from anomalib.models.image.stfpm.loss import STFPMLoss
from anomalib.models.image.uninet import torch_model as uninet_model
from anomalib.models.image.uninet.components import DomainRelatedFeatureSelection, UniNetLoss
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import RandomGrayscale

# At the end, and not first as without -P: this folder has an anomalib.py of its own.
sys.path.append(str(Path(__file__).resolve().parent))

from peer_anomalib import BACKBONE, STRIDE_8, STRIDE_16, Images, check_features, load_weights, read, write

LAYERS = ("blocks.1", STRIDE_8, STRIDE_16)
_CHANNELS, _WIDTHS = (24, 40, 112), (64, 128, 256)
_BATCH, _TIMED, _SEED = 32, 4, 0
_PDN_RATE, _GREY = 1e-4, 0.3
_SHIPPED, _LINEAR = "as shipped", "linear heads"
_SETTINGS = {"layers": list(LAYERS), "widths": list(_WIDTHS), "filled": "zeros"}
_EPOCHS = {"stfpm": 20, "reversedistillation": 30, "uninet": 10, "efficientad": 10}
State = dict[str, torch.Tensor]


class Widened(TimmFeatureExtractor):
    """Our backbone in anomalib's extractor; with `widths`, every level filled up with channels of zeros."""

    def __init__(self, state: State, widths: Sequence[int] | None = None, requires_grad: bool = False):
        super().__init__(BACKBONE, LAYERS, pre_trained=False, requires_grad=requires_grad)
        load_weights(SimpleNamespace(feature_extractor=self), state)
        self.fill = [0] * len(LAYERS)
        if widths is not None:
            self.fill = [w - c for w, c in zip(widths, _CHANNELS, strict=True)]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(images)
        return {
            name: F.pad(maps, (0, 0, 0, 0, 0, n))
            for (name, maps), n in zip(found.items(), self.fill, strict=True)
        }


class LinearHeads(nn.Module):
    """A decoder with a 1x1 convolution behind each level, so that restored features can be negative."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        self.heads = nn.ModuleList(nn.Conv2d(width, width, 1) for width in _WIDTHS)

    def forward(self, code: torch.Tensor) -> list[torch.Tensor]:
        return [head(maps) for head, maps in zip(self.heads, self.decoder(code), strict=True)]


class NarrowBlock(uninet_model.AttentionBottleneck):
    """UniNet's bottleneck block at ResNet-18's widths: a quarter of what it has hard-wired."""

    channel_expansion = 1


def stfpm(state: State) -> nn.Module:
    def extractor(pre_trained: bool, **options: object) -> nn.Module:
        return TimmFeatureExtractor(pre_trained=False, **options)

    with patch.object(stfpm_model, "TimmFeatureExtractor", extractor):
        model = stfpm_model.STFPMModel(LAYERS, BACKBONE)
    load_weights(SimpleNamespace(feature_extractor=model.teacher_model), state)
    return model


def reverse(state: State, size: int, decoder: str) -> nn.Module:
    with patch.object(reverse_model, "TimmFeatureExtractor", lambda **_: Widened(state, _WIDTHS)):
        model = reverse_model.ReverseDistillationModel(
            "resnet18", (size, size), LAYERS, AnomalyMapGenerationMode.ADD
        )
    if decoder == _LINEAR:
        model.decoder = LinearHeads(model.decoder)
    return model


def uninet(state: State, decoder: str, loss: nn.Module) -> nn.Module:
    teacher = staticmethod(lambda _: Widened(state, _WIDTHS, requires_grad=True))
    with (
        patch.object(uninet_model.Teachers, "_get_teacher", teacher),
        patch.object(uninet_model, "AttentionBottleneck", NarrowBlock),
        patch.object(
            uninet_model, "DomainRelatedFeatureSelection", lambda: DomainRelatedFeatureSelection(_WIDTHS[0])
        ),
    ):
        model = uninet_model.UniNetModel("resnet18", "resnet18", loss)
    model.fc = nn.Linear(_WIDTHS[0], 1)
    if decoder == _LINEAR:
        model.student = LinearHeads(model.student)
    return model


def like(old: nn.Conv2d, shape: Sequence[int]) -> nn.Conv2d:
    """A convolution with weights of `shape`, at the stride and padding of `old`."""
    return nn.Conv2d(shape[1], shape[0], tuple(shape[2:]), old.stride, old.padding)


def efficientad(teacher: State, size: int) -> nn.Module:
    """EfficientAdModel at the widths of `teacher`, whose four convolutions are taken in order."""
    weights = [value for value in teacher.values() if value.ndim == 4]
    biases = [value for value in teacher.values() if value.ndim == 1]
    channels = len(weights[-1])
    model = efficientad_model.EfficientAdModel(channels)
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        name, shape = f"conv{number}", list(weight.shape)
        setattr(model.teacher, name, like(getattr(model.teacher, name), shape))
        getattr(model.teacher, name).load_state_dict({"weight": weight, "bias": bias})
        shape[0] *= 2 if number == len(weights) else 1
        setattr(model.student, name, like(getattr(model.student, name), shape))
    # Their autoencoder is drawn for 256 px: 8 positions are left there, fewer here.
    encoder = model.ae.encoder
    encoder.enconv6 = like(encoder.enconv6, (64, 64, size // 32, size // 32))
    return model


class Wrapper(SimpleNamespace):
    """What the methods of anomalib's Lightning classes ask of `self`; their constructors download weights."""

    device = torch.device("cpu")

    def __init__(self, lightning: type, model: nn.Module, epochs: int, **given: object):
        super().__init__(lightning=lightning, model=model, parameters=model.parameters, **given)
        self.trainer = SimpleNamespace(max_epochs=epochs, max_steps=-1)
        self.log = self.log_dict = lambda *_, **__: None

    def optimizer(self, rate: float | None) -> tuple[torch.optim.Optimizer, list]:
        """anomalib's own, or Adam and a cosine; the schedulers step once per epoch, as Lightning's do."""
        if rate is not None:
            trained = [p for p in self.parameters() if p.requires_grad]
            adam = torch.optim.Adam(trained, lr=rate, weight_decay=1e-5)
            return adam, [torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.trainer.max_epochs)]
        found = self.lightning.configure_optimizers(self)
        if isinstance(found, dict):
            return found["optimizer"], [found["lr_scheduler"]]
        (shipped,), schedulers = found if isinstance(found, tuple) else ([found], [])
        return shipped, schedulers

    def train(self) -> None:
        """Training mode, but for what is built in evaluation mode: Lightning keeps that."""
        self.model.train()
        if self.lightning is UniNet:
            self.model.teachers.source_teacher.eval()

    def step(self, images: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        images = images.contiguous(memory_format=self.layout)
        batch = SimpleNamespace(image=images, gt_mask=None, gt_label=torch.zeros(len(images)))
        optimizer.zero_grad()
        self.lightning.training_step(self, batch)["loss"].backward()
        optimizer.step()


@dataclass(frozen=True)
class Student:
    """One method and setting to measure: anomalib's Lightning class, its torch model and what it asks for.

    With `rate`, Adam and a cosine as in `adlearn.training.descend` take the place of anomalib's optimizer.
    """

    lightning: type
    settings: dict
    build: Callable[[], nn.Module]
    batch: int
    given: dict
    rate: float | None = None

    @property
    def method(self) -> str:
        return self.lightning.__name__.lower()

    def wrapper(self, epochs: int, layout: torch.memory_format = torch.contiguous_format) -> Wrapper:
        model = self.build().to(memory_format=layout)
        return Wrapper(self.lightning, model, epochs, layout=layout, **self.given)


def stfpm_students(options: argparse.Namespace, state: State, size: int) -> Iterator[Student]:
    settings, given = {"layers": list(LAYERS)}, {"loss": STFPMLoss()}
    ours = settings | {"optimizer": f"Adam {options.rate}, cosine"}
    if "ours" in options.recipes:
        yield Student(Stfpm, ours, partial(stfpm, state), options.batch, given, options.rate)
    if _SHIPPED in options.recipes:
        yield Student(Stfpm, settings | {"optimizer": _SHIPPED}, partial(stfpm, state), _BATCH, given)


def reverse_students(options: argparse.Namespace, state: State, size: int) -> Iterator[Student]:
    for decoder in options.decoders:
        build, given = partial(reverse, state, size, decoder), {"loss": ReverseDistillationLoss()}
        yield Student(ReverseDistillation, _SETTINGS | {"decoder": decoder}, build, options.batch, given)


def uninet_students(options: argparse.Namespace, state: State, size: int) -> Iterator[Student]:
    for decoder in options.decoders:
        loss = UniNetLoss(temperature=options.temperature)
        settings = _SETTINGS | {"decoder": decoder, "temperature": options.temperature}
        yield Student(UniNet, settings, partial(uninet, state, decoder, loss), options.batch, {"loss": loss})


def efficientad_students(options: argparse.Namespace, state: State, size: int) -> Iterator[Student]:
    teacher = torch.load(options.teacher or options.folder / "teacher.pt", weights_only=True)
    widths = [len(value) for value in teacher.values() if value.ndim == 4]
    settings = {"widths": widths, "teacher": "ours", "penalty": "scenery"}
    given = {"lr": _PDN_RATE, "weight_decay": 1e-5}
    given["penalty"] = torch.load(options.folder / "penalty.pt", weights_only=True)
    build = partial(efficientad, teacher, size)
    if "ours" in options.recipes:
        ours = settings | {"optimizer": f"Adam {options.pdn_rate}, cosine"}
        yield Student(EfficientAd, ours, build, options.pdn_batch, given, options.pdn_rate)
    if _SHIPPED in options.recipes:
        yield Student(EfficientAd, settings | {"optimizer": _SHIPPED}, build, 1, given)


_STUDENTS = {
    "stfpm": stfpm_students,
    "reversedistillation": reverse_students,
    "uninet": uninet_students,
    "efficientad": efficientad_students,
}


def raw(images: torch.Tensor) -> torch.Tensor:
    """Exported images back in [0, 1]: EfficientAd normalises them itself."""
    return images * 0.5 + 0.5


class Penalty:
    """In the place of ImageNette's loader: a random one of `images` a step, without end, some grey."""

    def __init__(self, images: torch.Tensor):
        self.images, self.transform = images, RandomGrayscale(_GREY)

    def __next__(self) -> list[torch.Tensor]:
        return [self.transform(self.images[torch.randint(len(self.images), (1,))])]


def prepare(wrapper: Wrapper, train: torch.Tensor) -> None:
    """What `EfficientAd.on_train_start` and `configure_optimizers` do before the first step."""
    batches = [SimpleNamespace(image=batch) for batch in train.split(_BATCH)]
    wrapper.trainer.datamodule = SimpleNamespace(train_dataloader=lambda: range(len(train)))
    wrapper._get_quantiles_of_maps = partial(EfficientAd._get_quantiles_of_maps, wrapper)
    wrapper.imagenet_iterator = Penalty(wrapper.penalty)
    wrapper.model.mean_std.update(EfficientAd.teacher_channel_mean_std(wrapper, batches))


def finish(wrapper: Wrapper, validation: torch.Tensor) -> None:
    """The quantiles of `EfficientAd.on_validation_start`, of our normal validation images."""
    batch = SimpleNamespace(image=validation, gt_label=torch.zeros(len(validation)))
    wrapper.model.eval()
    wrapper.model.quantiles.update(EfficientAd.map_norm_quantiles(wrapper, [batch]))


def train(student: Student, wrapper: Wrapper, images: Images, epochs: int) -> None:
    """`epochs` passes over the training images in random order."""
    inputs = images.train
    if student.lightning is EfficientAd:
        inputs = raw(inputs)
        prepare(wrapper, inputs)
    optimizer, schedulers = wrapper.optimizer(student.rate)
    for _ in range(epochs):
        wrapper.train()
        for chosen in torch.randperm(len(inputs)).split(student.batch):
            wrapper.step(inputs[chosen], optimizer)
        for scheduler in schedulers:
            scheduler.step()
    if student.lightning is EfficientAd:
        finish(wrapper, raw(images.validation))


def measure(student: Student, epochs: int, images: Images) -> dict:
    """Train one student on one dataset and score its test images: the record."""
    torch.manual_seed(_SEED)
    # The layout changes no number and halves the wait; the losses of the others refuse it.
    layout = torch.channels_last if student.lightning is Stfpm else torch.contiguous_format
    wrapper = student.wrapper(epochs, layout)
    size = images.test.shape[-1]
    record = {
        "method": student.method,
        "settings": student.settings | {"batch": student.batch, "epochs": epochs},
    }
    record |= {"dataset": f"{images.name} {size} px", "train_images": len(images.train)}
    start = time.perf_counter()
    train(student, wrapper, images, epochs)
    seconds = time.perf_counter() - start
    record |= {"fit_seconds": round(seconds, 3), "seconds_per_epoch": round(seconds / epochs, 3)}
    record["threads"] = torch.get_num_threads()
    model = wrapper.model.eval()
    test = raw(images.test) if student.lightning is EfficientAd else images.test
    with torch.no_grad():
        record |= score(model, test, images)
        return record | {"ms_per_image": milliseconds(partial(model, test[:_TIMED]), _TIMED)}


def score(model: nn.Module, test: torch.Tensor, images: Images) -> dict:
    """Image AUROC of the raw scores, also on each part of the test set; pixel AUROC where there are masks."""
    outputs = [model(batch) for batch in test.split(_BATCH)]
    scores = torch.cat([o.pred_score.reshape(-1) for o in outputs]).numpy()
    result = {"image_auroc": round(float(roc_auc_score(images.labels, scores)), 4)}
    for part, members in images.extra.items():
        # A part that is not of the test set, such as ELPV's uncertain cells, has no members.
        if members.any():
            found = roc_auc_score(images.labels[members], scores[members])
            result[f"image_auroc_{part}"] = round(float(found), 4)
    result |= {"distinct_scores": len(np.unique(scores)), "test_images": len(scores)}
    if images.masks is not None:
        maps = torch.cat([o.anomaly_map.reshape(-1, *test.shape[-2:]) for o in outputs]).numpy()
        result["pixel_auroc"] = round(float(roc_auc_score(images.masks.ravel(), maps.ravel())), 4)
    return result


def milliseconds(run: Callable[[], object], count: int, repeats: int = 5) -> float:
    """The fastest run after one to warm up, for each of `count` images."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3 / count)
    return round(min(times[1:]), 2)


def speed(options: argparse.Namespace, state: State) -> dict[str, dict[str, float]]:
    """Milliseconds per image of a training step, and of a prediction at batch 1 and 4, of each method.

    What `adlearn bench students` asks for: `images.pt` in the folder are the images (N, 3, H, W), normalised.
    """
    images, found = torch.load(options.folder / "images.pt", weights_only=True), {}
    for name in options.only:
        for student in _STUDENTS[name](options, state, images.shape[-1]):
            found[name] = student_speed(student, images)
    return found


def student_speed(student: Student, images: torch.Tensor) -> dict[str, float]:
    wrapper = student.wrapper(epochs=1)
    inputs = raw(images) if student.lightning is EfficientAd else images
    if student.lightning is EfficientAd:
        prepare(wrapper, inputs)
    optimizer, _ = wrapper.optimizer(student.rate)
    wrapper.train()
    batch = inputs[: student.batch]
    found = {"step_ms": milliseconds(partial(wrapper.step, batch, optimizer), len(batch))}
    model = wrapper.model.eval()
    with torch.no_grad():
        for count in (1, _TIMED):
            found[f"image_ms_{count}"] = milliseconds(partial(model, inputs[:count]), count, repeats=20)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what peer_export.py wrote")
    parser.add_argument("result", type=Path, help="JSON file that records are added to")
    parser.add_argument("--only", nargs="+", default=list(_EPOCHS), choices=list(_EPOCHS))
    parser.add_argument("--datasets", nargs="+", help="default: every .npz in the folder")
    parser.add_argument("--epochs", type=int, help=f"passes over the training images; default: {_EPOCHS}")
    parser.add_argument("--batch", type=int, default=8, help="of all but Stfpm as shipped (32), EfficientAd")
    parser.add_argument("--rate", type=float, default=3e-3, help="Stfpm's learning rate under Adam")
    parser.add_argument("--decoders", nargs="+", default=[_SHIPPED, _LINEAR], help="of both that have one")
    parser.add_argument("--temperature", type=float, default=0.1, help="UniNet's")
    parser.add_argument("--teacher", type=Path, help="EfficientAd's PDN; default: teacher.pt in the folder")
    parser.add_argument("--pdn-rate", type=float, default=2e-3, help="EfficientAd's under our recipe")
    parser.add_argument("--pdn-batch", type=int, default=4, help="EfficientAd's under our recipe")
    parser.add_argument(
        "--recipes", nargs="+", default=["ours", _SHIPPED], help="optimizers of Stfpm, EfficientAd"
    )
    parser.add_argument("--speed", action="store_true", help="time the methods on images.pt")
    options = parser.parse_args()
    state = torch.load(options.folder / "state.pt", weights_only=True)
    if options.speed:
        options.result.write_text(json.dumps(speed(options, state)))
        return
    for path in sorted(options.folder.glob("*_*.npz")):
        if options.datasets and path.stem.replace("_", "/", 1) not in options.datasets:
            continue
        images = read(path)
        check_features(SimpleNamespace(feature_extractor=Widened(state)), images)
        for name in options.only:
            for student in _STUDENTS[name](options, state, images.test.shape[-1]):
                record = measure(student, options.epochs or _EPOCHS[name], images)
                write(options.result, record)
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
