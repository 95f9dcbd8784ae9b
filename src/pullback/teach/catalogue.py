"""What `pullback teachers` lists: the known teachers, and some networks of other libraries."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from pullback.teach.adapters import INSTALL
from pullback.teach.known_teachers import EMBEDDED, KNOWN

_IMAGENET = "ImageNet-1k"


@dataclass(frozen=True)
class CatalogueEntry:
    """A teacher as it is listed. What a library does not publish for its network is None."""

    name: str
    """For `--teacher`."""
    parameters: int
    accuracy: float
    """Top-1 accuracy on the images that `data` is for, between 0 and 1, as published."""
    data: str
    """What it was trained for."""
    size: int
    """Height and width of its input, pixels."""
    classes: int
    licence: str
    installed: bool
    install: str
    """The command that installs what it needs, or where it comes from."""
    downloads: bool
    """Whether its weights are downloaded when it is first used."""


def catalogue() -> list[CatalogueEntry]:
    """The teachers that can be used by name. Nothing is imported to find out what is installed."""
    entries = [
        CatalogueEntry(
            name,
            k.parameters,
            k.accuracy,
            _IMAGENET,
            k.side,
            1000,
            k.licence,
            k.path() is not None,
            k.how_to_install(),
            False,
        )
        for name, k in KNOWN.items()
    ]
    # Its accuracy is on the 359 embedded digits to test on; `scripts/train_digits_teacher.py` made it.
    entries.append(
        CatalogueEntry(
            EMBEDDED, 17_088, 0.972, "embedded digits", 8, 10, "Apache-2.0", True, "comes with pullback", False
        )
    )
    for library, licence, rows in _OTHERS:
        modules = {"keras": ("keras", "tensorflow"), "timm": ("timm",), "torchvision": ("torchvision",)}[library]
        installed = all(importlib.util.find_spec(module) is not None for module in modules)
        entries += [
            CatalogueEntry(
                f"{library}:{name}",
                int(millions * 1e6),
                accuracy,
                _IMAGENET,
                size,
                1000,
                licence,
                installed,
                INSTALL[library],
                True,
            )
            for name, millions, accuracy, size in rows
        ]
    return entries


# Parameters in millions, top-1 accuracy and input size, as published at keras.io/api/applications,
# pytorch.org/vision/stable/models.html (default weights) and in timm's results-imagenet.csv.
_OTHERS: list[tuple[str, str, list[tuple[str, float, float, int]]]] = [
    (
        "keras",
        "Apache-2.0",
        [
            ("MobileNet", 4.3, 0.704, 224),
            ("MobileNetV2", 3.5, 0.713, 224),
            ("NASNetMobile", 5.3, 0.744, 224),
            ("EfficientNetB0", 5.3, 0.771, 224),
            ("EfficientNetV2B0", 7.2, 0.787, 224),
            ("DenseNet121", 8.1, 0.750, 224),
            ("ResNet50", 25.6, 0.749, 224),
            ("Xception", 22.9, 0.790, 299),
            ("EfficientNetV2S", 21.6, 0.839, 384),
        ],
    ),
    (
        "torchvision",
        "BSD-3-Clause",
        [
            ("mobilenet_v3_small", 2.5, 0.67668, 224),
            ("mobilenet_v3_large", 5.5, 0.75274, 224),
            ("resnet18", 11.7, 0.69758, 224),
            ("resnet50", 25.6, 0.80858, 224),
            ("efficientnet_b0", 5.3, 0.77692, 224),
            ("convnext_tiny", 28.6, 0.82520, 224),
        ],
    ),
    (
        "timm",
        "Apache-2.0",
        [
            ("mobilenetv3_large_100", 5.5, 0.75766, 224),
            ("efficientnet_b0", 5.3, 0.77698, 224),
            ("resnet50", 25.6, 0.80374, 224),
        ],
    ),
]
