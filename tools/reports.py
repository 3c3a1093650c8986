"""Make the reports of well-known networks, as pages and figures, and pictures of them in a real browser.

    python tools/reports.py OUT [--only NAME]... [--browser CHROMIUM]

With `--browser` each page is opened there, headless, and seen folded and opened, light and dark. Needs torchvision and the extras
`svg` and `browser`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from graphsplit.draw import Drawing, draw_model, figure, page
from graphsplit.modules.factory import Example, network_of
from tools.zoos import torchvision_zoo

ROOT = Path(__file__).parent.parent


class UNet(nn.Module):
    """Four scales down and up again, with shortcuts; images (n, 3, h, w) to masks (n, 2, h, w)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.pool, self.middle = nn.MaxPool2d(2), _double(widths[-1], 2 * widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths))
        self.join = nn.ModuleList(_double(2 * w, w) for w in reversed(widths))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The mask of an image."""
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), kept.pop()], 1))
        result: Tensor = self.head(x)
        return result


def _double(a: int, b: int) -> nn.Sequential:
    layers = [layer for w in (a, b) for layer in (nn.Conv2d(w, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())]
    return nn.Sequential(*layers)


def _vision(name: str) -> Example:
    found = torchvision_zoo.build(name)
    return Example(found.model, found.args)


def _language() -> Example:
    from models.char_lm import CharLM

    return Example(CharLM(256, 8, 24), (torch.zeros(1, 128, dtype=torch.int64),))


MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    "lenet": (lambda: ROOT / "models" / "lenet.onnx", 2),
    "resnet50": (lambda: _vision("resnet50"), 2),
    "unet": (lambda: Example(UNet(), (torch.zeros(1, 3, 64, 64),)), 3),
    "shufflenet": (lambda: _vision("shufflenet_v2_x1_0"), 2),
    "vit_b_16": (lambda: _vision("vit_b_16"), 4),
    "language_model_24": (_language, 2),
}
"""Each network, and into how many parts its report splits it."""


def draw(name: str) -> Drawing:
    """The drawing of a network of `MODELS`."""
    make, k = MODELS[name]
    made = make()
    return draw_model(network_of(made) if isinstance(made, Example) else made, k)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the reports, and take the pictures."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    made.add_argument("--only", action="append", choices=sorted(MODELS), default=[], help="not all networks")
    made.add_argument("--browser", metavar="CHROMIUM", help="the browser that takes pictures")
    arguments = made.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or MODELS:
        begin = time.monotonic()
        drawing = draw(name)
        html, svg = arguments.out / f"{name}.html", arguments.out / f"{name}.svg"
        html.write_text(page(drawing), encoding="utf-8")
        svg.write_text(figure(drawing), encoding="utf-8")
        sizes = f"{html.stat().st_size / 1024:.0f} KiB page, {svg.stat().st_size / 1024:.0f} KiB figure"
        print(f"{name}: {len(drawing.boxes)} boxes, {sizes}, {time.monotonic() - begin:.1f} s", flush=True)
        if arguments.browser:
            pictures(html, arguments.browser)
    return 0


IN_SIGHT = """(kind) => {
  const found = [...document.querySelectorAll("#graph " + kind)].filter((item) => {
    const seen = item.getBoundingClientRect();
    return seen.bottom < innerHeight && seen.right < innerWidth;
  });
  const item = found[Math.floor(found.length / 2)];
  if (item) item.querySelector(".name").dispatchEvent(new MouseEvent("click", {bubbles: true}));
}"""
"""Click one of the folds or layers that are in sight."""


def pictures(html: Path, browser: str) -> None:
    """PNG files beside a page: as it opens, dark, and with a layer chosen in what was unfolded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for theme in ("light", "dark"):
            shown = opened.new_page(viewport={"width": 1400, "height": 900}, color_scheme=theme)
            shown.goto(html.resolve().as_uri())
            shown.screenshot(path=html.with_name(f"{html.stem}-{theme}.png"))
            if theme == "light":
                for kind in (".fold", ".layer"):
                    shown.evaluate(IN_SIGHT, kind)
                shown.screenshot(path=html.with_name(f"{html.stem}-opened.png"))
            shown.close()
        opened.close()


if __name__ == "__main__":
    sys.exit(main())
