"""The datasets that ship, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from ddbench.data.spec import STATISTICS, DatasetSpec

_TEN = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# ImageNet-1k indices in label order: MTT and DD-Ranking agree on them.
_SUBSETS: dict[str, tuple[int, ...]] = {
    "imagenette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagemeow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagefruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}
_IMAGENET_SOURCE = "an ImageNet-1k copy of yours under DATA/imagenet/{train,val}/<wnid>/"


def _imagenet(name: str, size: int, classes: int, indices: tuple[int, ...]) -> DatasetSpec:
    mean, std = STATISTICS["imagenet"]
    return DatasetSpec(
        name,
        channels=3,
        size=size,
        classes=classes,
        class_names=(),
        mean=mean,
        std=std,
        flip=True,
        source=_IMAGENET_SOURCE,
        note="scored on the validation images; shorter side resized, centre crop",
        resizable=True,
        indices=indices,
        reader="ddbench.data.files:load_imagenet",
    )


# Imagenette's own archives: their images are split in another way than ImageNet's. Classes in the label order of the
# subset of that name.
_ARCHIVES: dict[str, tuple[str, ...]] = {
    "imagenette2": (
        *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
        *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
    ),
    "imagewoof2": (
        *("n02096294", "n02093754", "n02111889", "n02088364", "n02086240"),
        *("n02089973", "n02087394", "n02115641", "n02099601", "n02105641"),
    ),
}


def _archive(name: str, wnids: tuple[str, ...]) -> DatasetSpec:
    return replace(
        _imagenet(name, 128, 10, ()),
        class_names=wnids,
        source=f"the archive {name}.tgz, {name}-320.tgz or {name}-160.tgz of fast.ai, unpacked into DATA",
        note=f"scored on the validation images of the archive, which are not those of {name[:-1]}",
        reader="ddbench.data.files:load_archive",
    )


def _grey(name: str, size: int, names: tuple[str, ...], values: tuple[float, float], source: str) -> DatasetSpec:
    """Written signs: grey, never mirrored; ``values`` are the mean and deviation that public code normalises with."""
    return DatasetSpec(
        name,
        1,
        size,
        len(names),
        names,
        values[:1],
        values[1:],
        False,
        source,
        reader="ddbench.data.sources:load_idx_dataset",
    )


_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_UPPER, _LOWER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), tuple("abcdefghijklmnopqrstuvwxyz")
# Small letters that EMNIST keeps apart from their capitals in bymerge and balanced.
_APART = tuple("abdefghnqrt")
_EMNIST: dict[str, tuple[tuple[str, ...], tuple[float, float]]] = {
    "balanced": ((*_TEN, *_UPPER, *_APART), (0.1751, 0.3332)),
    "byclass": ((*_TEN, *_UPPER, *_LOWER), (0.1736, 0.3316)),
    "bymerge": ((*_TEN, *_UPPER, *_APART), (0.1736, 0.3316)),
    "digits": (_TEN, (0.1733, 0.3316)),
    "letters": (_LOWER, (0.1722, 0.3309)),
    "mnist": (_TEN, (0.1733, 0.3317)),
}


def _emnist(split: str, names: tuple[str, ...], values: tuple[float, float]) -> DatasetSpec:
    source = f"IDX files emnist-{split}-* in DATA/EMNIST/raw, or --download (all splits, 0.5 GB)"
    note = "the files hold images on their side; they are turned upright"
    return replace(_grey(f"emnist-{split}", 28, names, values, source), note=note)


MEDMNIST_SIZES = (28, 64, 128, 224)
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
# Channels, whether a mirrored image keeps its class (a left organ does not), classes.
_MEDMNIST: dict[str, tuple[int, bool, tuple[str, ...]]] = {
    "pathmnist": (
        3,
        True,
        (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
            *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        ),
    ),
    "dermamnist": (
        3,
        True,
        (
            *(
                "actinic keratoses and intraepithelial carcinoma",
                "basal cell carcinoma",
                "benign keratosis-like lesions",
            ),
            *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        ),
    ),
    "octmnist": (1, True, ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")),
    "pneumoniamnist": (1, True, ("normal", "pneumonia")),
    "retinamnist": (3, True, tuple("01234")),
    "breastmnist": (1, True, ("malignant", "normal, benign")),
    "bloodmnist": (
        3,
        True,
        (
            *("basophil", "eosinophil", "erythroblast"),
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            *("lymphocyte", "monocyte", "neutrophil", "platelet"),
        ),
    ),
    "tissuemnist": (
        1,
        True,
        (
            *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells"),
            *("Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments"),
            "Thick Ascending Limb",
        ),
    ),
    **{f"organ{view}mnist": (1, False, _ORGANS) for view in "acs"},
}
REFUSED: dict[str, str] = {
    "chestmnist": "an image of it has several labels; the datasets of ddbench have one label an image",
    **dict.fromkeys(
        (f"{name}mnist3d" for name in ("organ", "nodule", "adrenal", "fracture", "vessel", "synapse")),
        "its images are volumes; the datasets of ddbench are flat images",
    ),
}
"""Sets of MedMNIST that are known and not taken, with the reason."""


def _medmnist(name: str, channels: int, flip: bool, names: tuple[str, ...]) -> DatasetSpec:
    """A set of MedMNIST, normalised with 0.5 and 0.5 as its own examples do."""
    return DatasetSpec(
        name,
        channels,
        28,
        len(names),
        names,
        (0.5,) * channels,
        (0.5,) * channels,
        flip,
        f"{name}.npz of MedMNIST (zenodo.org/records/10519652) in DATA/medmnist; --size 64, 128, 224: {name}_SIZE.npz",
        "scored on the test images; the validation images are left out",
        resizable=True,
        sizes=MEDMNIST_SIZES,
        reader="ddbench.data.npz:load_medmnist",
    )


# DC, DSA, DM, DC-BENCH and BEARD normalise CIFAR-100 with its own statistics, which is the default here;
# MTT and DD-Ranking take CIFAR-10's: STATISTICS["mtt"].
def graph_spec(name: str, classes: int, source: str, note: str, folds: int = 0) -> DatasetSpec:
    """The spec of a set of graphs.

    Args:
        classes: 0: told by its files.
        note: how it is split.
        folds: as :attr:`DatasetSpec.folds`.
    """
    return DatasetSpec(
        name,
        channels=0,
        size=0,
        classes=classes,
        class_names=(),
        mean=(),
        std=(),
        flip=False,
        source=source,
        note=note,
        modality="graph",
        folds=folds,
        reader="ddbench.graphs.dataset:load_graph_dataset",
    )


_TU = "a TU folder, DGCNN text or npz in DATA or DATA/graphs, or --download"
_OGB = "OGB's folder (raw/, split/scaffold/) or npz in DATA or DATA/graphs, or --download"
_TENTHS = "80 / 10 / 10 percent by seed 0; with a fold behind it, NAME:0 to NAME:9, that one for testing"
_GRAPHS = (
    *(graph_spec(name, 2, _TU, _TENTHS, 10) for name in ("mutag", "proteins", "nci1", "imdb-binary", "dd")),
    *(graph_spec(f"ogbg-mol{name}", 2, _OGB, "its scaffold split") for name in ("bace", "bbbp", "hiv")),
)

BUILTIN = (
    # Mean and std measured on the 1,297 training images of the fixed split.
    DatasetSpec(
        "digits",
        1,
        8,
        10,
        _TEN,
        (0.3067,),
        (0.3767,),
        False,
        "embedded in scikit-learn; no download",
        "50 images of each class are the test set; the split is fixed",
        reader="ddbench.data.sources:load_digits_dataset",
    ),
    DatasetSpec(
        "mnist",
        1,
        28,
        10,
        _TEN,
        (0.1307,),
        (0.3081,),
        False,
        "IDX files in DATA/MNIST/raw, or --download",
        reader="ddbench.data.sources:load_idx_dataset",
    ),
    DatasetSpec(
        "fashion-mnist",
        1,
        28,
        10,
        _FASHION,
        (0.2861,),
        (0.3530,),
        True,
        "IDX files in DATA/FashionMNIST/raw, the Debian package dataset-fashion-mnist, or --download",
        reader="ddbench.data.sources:load_idx_dataset",
    ),
    DatasetSpec(
        "svhn",
        3,
        32,
        10,
        _TEN,
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        False,
        "{train,test}_32x32.mat in DATA/SVHN, or --download",
        reader="ddbench.data.sources:load_svhn",
    ),
    DatasetSpec(
        "cifar10",
        3,
        32,
        10,
        _CIFAR10,
        *STATISTICS["cifar10"],
        True,
        "the python version in DATA/cifar-10-batches-py, or --download",
        reader="ddbench.data.sources:load_cifar",
    ),
    DatasetSpec(
        "cifar100",
        3,
        32,
        100,
        (),
        *STATISTICS["cifar100"],
        True,
        "the python version in DATA/cifar-100-python, or --download",
        reader="ddbench.data.sources:load_cifar",
    ),
    DatasetSpec(
        "tiny-imagenet",
        3,
        64,
        200,
        (),
        *STATISTICS["imagenet"],
        True,
        "the official archive tiny-imagenet-200.zip, unpacked into DATA/tiny-imagenet-200",
        "scored on the 10,000 validation images",
        reader="ddbench.data.files:load_tiny_imagenet",
    ),
    *(_imagenet(name, 128, 10, indices) for name, indices in _SUBSETS.items()),
    _imagenet("imagenet-1k", 64, 1000, tuple(range(1000))),
    *(_archive(name, wnids) for name, wnids in _ARCHIVES.items()),
    _grey("kmnist", 28, _KANA, (0.1918, 0.3483), "IDX files in DATA/KMNIST/raw, or --download"),
    *(_emnist(split, names, values) for split, (names, values) in _EMNIST.items()),
    replace(
        _grey("usps", 16, _TEN, (0.2469, 0.2989), "usps.bz2 and usps.t.bz2 (libsvm) in DATA/USPS, or --download"),
        reader="ddbench.data.arrays:load_usps",
    ),
    DatasetSpec(
        "stl10",
        3,
        96,
        10,
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        (0.4467, 0.4398, 0.4066),
        (0.2603, 0.2566, 0.2713),
        True,
        "the binary version in DATA/stl10_binary, or --download",
        "all 5,000 labelled training images, no folds; the unlabelled images are not used",
        reader="ddbench.data.arrays:load_stl10",
    ),
    *(_medmnist(name, channels, flip, names) for name, (channels, flip, names) in _MEDMNIST.items()),
    *_GRAPHS,
)
