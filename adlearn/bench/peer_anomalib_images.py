"""anomalib's Draem and Ganomaly, trained from random weights on the images that `peer_export.py` wrote.

Runs under the Python where anomalib is installed and imports nothing of adlearn (-P keeps this folder off the
front of the import path):

    python -m adlearn.bench.peer_export FOLDER factory/steel --size 128 --limit 100 --textures 64
    python -P adlearn/bench/peer_anomalib_images.py FOLDER result.json [--only draem] [--epochs 10]

Networks, synthetic anomalies, losses, optimizers, steps, maps and scores are anomalib's. The loop is ours, as
Draem's constructor downloads textures: its anomaly source is the folder `textures` that `peer_export` wrote.
Draem's two networks are made with `--width` channels, and its learning rate can be set.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models import Draem, Ganomaly
from anomalib.models.image.draem import torch_model as draem_model
from anomalib.models.image.draem.loss import DraemLoss
from anomalib.models.image.ganomaly.loss import DiscriminatorLoss, GeneratorLoss
from anomalib.models.image.ganomaly.torch_model import GanomalyModel
from torch import nn

# At the end, and not first as without -P: this folder has an anomalib.py of its own.
sys.path.append(str(Path(__file__).resolve().parent))

from peer_anomalib import Images, read, write
from peer_anomalib_students import milliseconds, raw, score

_TIMED = 4
Step = Callable[[torch.Tensor], None]


def draem(options: argparse.Namespace, size: int, epochs: int) -> tuple[nn.Module, Step, Step]:
    """The model, what to do with a batch, and what to do after an epoch."""
    model = draem_model.DraemModel()
    model.reconstructive_subnetwork = draem_model.ReconstructiveSubNetwork(base_width=options.width)
    model.discriminative_subnetwork = draem_model.DiscriminativeSubNetwork(6, 2, options.width)
    source = PerlinAnomalyGenerator(options.folder / "textures", blend_factor=(0.1, 1.0))
    own = SimpleNamespace(model=model, loss=DraemLoss(), augmenter=source, sspcab=False, log=_quiet)
    if options.rate is None:
        (optimizer,), (schedule,) = Draem.configure_optimizers(own)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=options.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

    def step(images: torch.Tensor) -> None:
        optimizer.zero_grad()
        Draem.training_step(own, SimpleNamespace(image=images))["loss"].backward()
        optimizer.step()

    return model, step, schedule.step


def ganomaly(options: argparse.Namespace, size: int, epochs: int) -> tuple[nn.Module, Step, Step]:
    """The same three of Ganomaly, which has no schedule."""
    model = GanomalyModel((size, size), 3, n_features=options.width, latent_vec_size=options.code)
    if options.dcgan_start:
        model.apply(model.weights_init)
    own = SimpleNamespace(model=model, beta1=0.5, beta2=0.999, learning_rate=options.rate or 2e-4)
    own.generator_loss, own.discriminator_loss = GeneratorLoss(1, 50, 1), DiscriminatorLoss()
    own.manual_backward, own.log_dict = _backward, _quiet
    optimizers = Ganomaly.configure_optimizers(own)
    own.optimizers = lambda: optimizers

    def step(images: torch.Tensor) -> None:
        Ganomaly.training_step(own, SimpleNamespace(image=images), 0)

    return model, step, _quiet


def _quiet(*_: object, **__: object) -> None:
    """Nobody listens to Lightning's log here, and Ganomaly does nothing after an epoch."""


def _backward(loss: torch.Tensor, **options: bool) -> None:
    loss.backward(**options)


# anomalib feeds Draem images in [0, 1]; GANomaly's tanh wants what peer_export writes, [-1, 1].
_METHODS = {"draem": ("Draem", draem, raw), "ganomaly": ("Ganomaly", ganomaly, lambda images: images)}
_EPOCHS = {"draem": 10, "ganomaly": 40}


def measure(name: str, images: Images, options: argparse.Namespace) -> dict:
    """Train one method on one dataset and score its test images: the record."""
    method, make, as_wanted = _METHODS[name]
    size, epochs = images.test.shape[-1], options.epochs or _EPOCHS[name]
    torch.manual_seed(options.seed)
    model, step, end_epoch = make(options, size, epochs)
    settings = {"width": options.width, "batch": options.batch, "epochs": epochs, "seed": options.seed}
    settings |= {"learning_rate": options.rate or "anomalib's"}
    if name == "ganomaly":
        first = "N(0, 0.02)" if options.dcgan_start else "PyTorch's"
        settings |= {"code": options.code, "first_weights": first}
    train, start = as_wanted(images.train), time.perf_counter()
    for _ in range(epochs):
        model.train()
        for chosen in torch.randperm(len(train)).split(options.batch):
            step(train[chosen])
        end_epoch()
    record = {"method": method, "settings": settings, "dataset": f"{images.name} {size} px"}
    record |= {"train_images": len(train), "fit_seconds": round(time.perf_counter() - start, 3)}
    model.eval()
    test = as_wanted(images.test)
    maps = images if name == "draem" else SimpleNamespace(**vars(images) | {"masks": None})
    with torch.no_grad():
        record |= {"threads": torch.get_num_threads()} | score(model, test, maps)
        return record | {"ms_per_image": milliseconds(partial(model, test[:_TIMED]), _TIMED)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what peer_export.py wrote")
    parser.add_argument("result", type=Path, help="JSON file that records are added to")
    parser.add_argument("--only", nargs="+", default=list(_METHODS), choices=list(_METHODS))
    parser.add_argument("--datasets", nargs="+", help="default: every .npz in the folder")
    parser.add_argument("--epochs", type=int, help=f"passes over the training images; default: {_EPOCHS}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=8, help="channels of the finest maps")
    parser.add_argument("--code", type=int, default=100, help="Ganomaly: length of the latent vector")
    # anomalib calls its weights_init on the whole model, where it finds nothing to do.
    parser.add_argument("--dcgan-start", action="store_true", help="Ganomaly: first weights of N(0, 0.02)")
    parser.add_argument("--rate", type=float, help="learning rate, falling along a cosine for Draem")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in sorted(options.folder.glob("*_*.npz")):
        if options.datasets and path.stem.replace("_", "/", 1) not in options.datasets:
            continue
        for name in options.only:
            record = measure(name, read(path), options)
            write(options.result, record)
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
