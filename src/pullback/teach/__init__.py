"""Pretrained teachers, and the labelling of a folder of images with them."""

from pullback.teach.classes import ClassName, read_classes, select_classes
from pullback.teach.kind import LabelKind
from pullback.teach.labels import Labelling, label_folder
from pullback.teach.selection import Selection
from pullback.teach.spec import TeacherSpec
from pullback.teach.table import LabelTable
from pullback.teach.teacher import Teacher

__all__ = [
    "ClassName",
    "LabelKind",
    "LabelTable",
    "Labelling",
    "Selection",
    "Teacher",
    "TeacherSpec",
    "label_folder",
    "read_classes",
    "select_classes",
]
