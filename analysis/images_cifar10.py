"""Small images: SKILD beside white-noise diffusion, with equal network, data and budget.

Both are trained with presets of the package (`cifar10-small`, `cifar10-small-ddpm`): the same
U-Net, v predicted, 12,000 steps of 32 images, about 50 minutes of one CPU core with AVX-512. They
differ in the noise, its schedule and the weight of each mode in the loss. The questions: how do
their samples compare with the test images as the number of network evaluations grows, and how well
does each refine low-resolution images, beside bicubic interpolation?

- distance: Frechet distance of VGG16's relu5_3 features averaged over sites (ImageNet weights,
  images enlarged to 64 pixels), N samples against all test images. It is not the FID, and with N of
  the order of the number of features it is biased, equally for equal N; `real` is the distance of N
  training images. For 1,000 evaluations there are N / 2 samples; the table also has the distance of
  half the samples of 100 evaluations.
- spectrum: power of the samples over that of the data in shells, along intensity and colours.
- super-resolution: test images, and 128 x 128 tiles of five photographs (from scikit-image: NAMES
  below; shorter side 256), from 8-bit area averages. One sample per image is scored.
- strip: one photograph at low resolution by six factors, for paper_figures/images.py.

Weights of the scoring networks come from files: VGG16 (VGG) and AlexNet (in WEIGHTS, under
torchvision's file name). PHOTOS is a folder with the five photographs. An interrupted study
resumes.

    python analysis/images_cifar10.py FOLDER CIFAR10.zarr PHOTOS VGG WEIGHTS [N]
        -> analysis/images_cifar10.csv, images_spectra.csv, images_super_resolution.csv
"""

# %% What is run
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from study import kept, skild_phys

from skild_phys.images.scores import feature_network, features, frechet_distance
from skild_phys.skild.data import ImageLattices
from skild_phys.skild.measured import fit_channels, measure_shells
from skild_phys.skild.spectrum import make_basis
from skild_phys.store import open_store

FOLDER, CIFAR10, PHOTOS, VGG, WEIGHTS = map(Path, sys.argv[1:6])
N = int(sys.argv[6]) if len(sys.argv) > 6 else 1000
MODELS = {"skild": "cifar10-small", "ddpm": "cifar10-small-ddpm"}
CALLS, MANY = (10, 20, 50, 100), 1000
STEPS = ("angle3", "ancestral")
FEW_FOR_MANY = {"skild": "angle3", "ddpm": "ancestral"}
"""The sampler that is also run with MANY evaluations."""
SEED, FACTORS, SR_CALLS, SR_TEST = 20261126, (2, 4, 8), 20, 256
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
TILE, SHORT = 128, 256
STRIP, STRIP_BOX, STRIP_FACTORS = "chelsea.png", (75, 8, 315, 248), (2, 2.5, 3, 4, 6, 8)
HERE = Path(__file__).parent
FOLDER.mkdir(parents=True, exist_ok=True)


def weights(model: str) -> Path:
    """Return the path of the weights of a model; train them if they are missing."""
    path = FOLDER / f"{MODELS[model]}.safetensors"
    if not path.exists():
        skild_phys("train", CIFAR10, "--preset", MODELS[model], "--threads", 1, "--seed", SEED,
                   "-o", path)  # fmt: skip
    return path


# %% Samples, and their distance from the test images
network = feature_network(VGG)
test = ImageLattices(open_store(CIFAR10), "test")
train = ImageLattices(open_store(CIFAR10), "train")


def features_of(name: str, images: ImageLattices, n: int | None = None) -> np.ndarray:
    """Return features of the first `n` images, kept in FOLDER."""
    path = FOLDER / f"{name}.features.npy"
    if not path.exists():
        np.save(path, features(network, ImageLattices(images.store, images.split, n)))
    return np.load(path)


def sampled(model: str, sampler: str, calls: int, n: int) -> dict:
    """Generate n images; return their distance and the seconds per image."""
    path = FOLDER / f"{model}-{sampler}-{calls}.zarr"
    made = skild_phys("generate", "--checkpoint", weights(model), "--L", 32, "-n", n, "--steps",
                      calls, "--sampler", sampler, "--seed", SEED, "-o", path)  # fmt: skip
    own = features_of(path.stem, ImageLattices(open_store(path)))
    distance = frechet_distance(own, features_of("test", test))
    return {"distance": distance, "seconds_per_image": made["seconds_per_lattice"]}


real, known = features_of(f"train-{N}", train, N), features_of("test", test)
rows = [{"model": "real", "sampler": "", "calls": 0, "n": n,
         "distance": frechet_distance(real[:n], known)} for n in (N, N // 2)]  # fmt: skip
runs = [(*way, N) for way in product(MODELS, STEPS, CALLS)]
runs += [(model, sampler, MANY, N // 2) for model, sampler in FEW_FOR_MANY.items()]
for model, sampler, calls, n in runs:
    found = kept(FOLDER / f"{model}-{sampler}-{calls}.json", sampled, model, sampler, calls, n)
    row = {"model": model, "sampler": sampler, "calls": calls, "n": n}
    if calls == MANY:
        half = features_of(f"{model}-{sampler}-{CALLS[-1]}", test)[:n]
        rows.append(row | {"calls": CALLS[-1], "distance": frechet_distance(half, known)})
    rows.append(row | found)
    print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "images_cifar10.csv", index=False, float_format="%.5g")

# %% Spectra along the principal directions of the channels of the data
basis = make_basis("dct", (32, 32))
images = [train.read(*span) for span in train.batches()]
directions = np.array(fit_channels(images, basis).mixing)


def shells(some: list[np.ndarray]) -> list:
    """Return the shells of each direction."""
    wide = [np.einsum("kc,ncyx->knyx", directions, x) for x in some]
    return [measure_shells([x[k] for x in wide], basis) for k in range(3)]


data, table = shells(images), []
for model in MODELS:
    store = ImageLattices(open_store(FOLDER / f"{model}-angle3-100.zarr"))
    for k, (ours, theirs) in enumerate(
        zip(shells([store.read(*span) for span in store.batches()]), data)
    ):
        error = (
            ours.mean / theirs.mean * np.hypot(ours.error / ours.mean, theirs.error / theirs.mean)
        )
        table.append(pd.DataFrame({
            "model": model, "direction": k, "kappa": ours.kappa, "power": ours.mean,
            "power_data": theirs.mean, "ratio": ours.mean / theirs.mean, "ratio_err": error,
        }))  # fmt: skip
pd.concat(table).to_csv(HERE / "images_spectra.csv", index=False, float_format="%.5g")


# %% Super-resolution
def resized(name: str) -> Image.Image:
    """Return a photograph, its shorter side SHORT pixels."""
    photo = Image.open(PHOTOS / name).convert("RGB")
    scale = SHORT / min(photo.size)
    return photo.resize([round(s * scale) for s in photo.size], Image.Resampling.BICUBIC)


def how_to(model: str, sampler: str, calls: int) -> list[object]:
    """Return the options of `refine` for a model."""
    if model == "bicubic":
        return ["--method", "bicubic"]
    return ["--checkpoint", weights(model), "--steps", calls, "--sampler", sampler, "--seed", SEED]


tiles = FOLDER / "tiles"
if not tiles.exists():
    (part := FOLDER / "tiles.part").mkdir(exist_ok=True)
    for name in NAMES:
        photo = resized(name)
        for y in range(0, photo.height - TILE + 1, TILE):
            for x in range(0, photo.width - TILE + 1, TILE):
                tile = photo.crop((x, y, x + TILE, y + TILE))
                tile.save(part / f"{Path(name).stem}-{y}-{x}.png")
    part.rename(tiles)
skild_phys("images", "prepare", "imagenet", "--size", TILE, "--from", tiles, "-o",
           FOLDER / "tiles.zarr")  # fmt: skip


def refined(data: str, factor: int, model: str, sampler: str) -> dict:
    """Refine the low-resolution images of `data`; return scores by name."""
    truth, split = (
        (CIFAR10, ["--split", "test"]) if data == "cifar10" else (FOLDER / "tiles.zarr", [])
    )
    low = FOLDER / f"{data}-low{factor}.zarr"
    skild_phys("images", "coarsen", truth, *split, "--factor", factor, "-o", low)
    out = FOLDER / f"{data}-{factor}x-{model}-{sampler}.zarr"
    count = ["-n", SR_TEST] if data == "cifar10" else []
    how = how_to(model, sampler, SR_CALLS)
    made = skild_phys("images", "refine", low, *how, *count, "-o", out)
    scores = "psnr,ssim" if data == "cifar10" else "psnr,ssim,lpips"
    found = skild_phys("images", "evaluate", out, "--against", truth, "--scores", scores, "--low",
                       low, "--weights", WEIGHTS)  # fmt: skip
    answer = {"n": found[0]["n"], "seconds_per_image": made["seconds_per_image"]}
    for score in found:
        answer |= {score["name"]: score["value"], score["name"] + "_err": score["error"]}
    return answer


rows = []
for data in ("cifar10", "photos"):
    for factor in FACTORS:
        for model, sampler in (*product(MODELS, STEPS), ("bicubic", "")):
            name = f"{data}-{factor}x-{model}-{sampler}.json"
            found = kept(FOLDER / name, refined, data, factor, model, sampler)
            row = {"data": data, "factor": factor, "model": model, "sampler": sampler}
            rows.append(row | found)
            print(rows[-1], flush=True)
            table = pd.DataFrame(rows)
            table.to_csv(HERE / "images_super_resolution.csv", index=False, float_format="%.5g")

# %% For the figures: one photograph at many factors
if not (strip := FOLDER / "strip").exists():
    (part := FOLDER / "strip.part").mkdir(exist_ok=True)
    resized(STRIP).crop(STRIP_BOX).reduce(2).save(part / "strip.png")
    part.rename(strip)
skild_phys("images", "prepare", "imagenet", "--size", 120, "--from", strip,
           "-o", FOLDER / "strip.zarr")  # fmt: skip
for factor in STRIP_FACTORS:
    low = FOLDER / f"strip-low{factor}.zarr"
    skild_phys("images", "coarsen", FOLDER / "strip.zarr", "--factor", factor, "-o", low)
    for model in (*MODELS, "bicubic"):
        skild_phys("images", "refine", low, *how_to(model, "ancestral", 100), "-o",
                   FOLDER / f"strip-{factor}x-{model}.zarr")  # fmt: skip
