"""Data sets, folders of images, augmentation and batches.

Pillow and pooch are imported where a file is decoded or fetched, so that importing this package costs nothing.
"""

from pullback.data.augment import Augmentation, CutMix, Normalise, RandomCrop, RandomFlip, RandomZoom
from pullback.data.batches import Batch, Batches, in_order
from pullback.data.cache import Pixels, cache_images
from pullback.data.catalog import DATASETS, load
from pullback.data.cifar10 import load_cifar10
from pullback.data.dataset import Dataset, Splits
from pullback.data.digits import load_digits
from pullback.data.folder import load_folder
from pullback.data.idx import load_fashion_mnist, load_idx, load_mnist
from pullback.data.images import list_images, read_image, read_images
from pullback.data.source import ImageSource, Listing, ReadImage, open_source

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batch",
    "Batches",
    "CutMix",
    "Dataset",
    "ImageSource",
    "Listing",
    "Normalise",
    "Pixels",
    "RandomCrop",
    "RandomFlip",
    "RandomZoom",
    "ReadImage",
    "Splits",
    "cache_images",
    "in_order",
    "list_images",
    "load",
    "load_cifar10",
    "load_digits",
    "load_fashion_mnist",
    "load_folder",
    "load_idx",
    "load_mnist",
    "open_source",
    "read_image",
    "read_images",
]
