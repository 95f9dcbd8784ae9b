"""`pullback teachers`: the pretrained networks that can be used by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pullback.cli.options import Options
from pullback.teach.catalogue import CatalogueEntry, catalogue


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """The pretrained networks that can be used by name: size, published accuracy, input, licence, how to install.

    Any other ONNX file of a classifier, network of these libraries, or function of yours will do as well.
    """

    def run(self) -> int:
        entries = catalogue()
        self.show([asdict(entry) for entry in entries], _text(entries))
        return 0


def _text(entries: list[CatalogueEntry]) -> str:
    rows = [("teacher", "parameters", "top-1", "trained for", "input", "licence", "")]
    rows += [
        (
            entry.name,
            f"{entry.parameters / 1e6:.1f} M" if entry.parameters > 1e5 else f"{entry.parameters / 1e3:.0f} k",
            f"{entry.accuracy:.1%}",
            entry.data,
            f"{entry.size}x{entry.size}",
            entry.licence,
            "installed" if entry.installed else entry.install,
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            "top-1: published accuracy on images of the data that it was trained for. ImageNet-1k has 1000 classes.",
            "licence: of keras, torchvision and timm that of the library; weights that it downloads may have another.",
            "Also: FILE.onnx, tfhub:URL, any other network of these libraries, and PACKAGE:CALLABLE.",
        ]
    )
