"""What a pixel of the two PixelCNNs sees, by gradients: the original has a blind spot, the gated one has none.

    python benchmarks/blind_spot.py [--out blind_spot.png] [--layers 2 4 8 12] [--kernel 3] [--models 2]

Models with random weights, and the gradient of the logits of one pixel by every pixel of the picture. The table counts the pixels
above that one within the field (`PixelCNNConfig.field`). The picture shows of the deepest models how strong the gradient is, on a
scale of tens and as the mean over several draws of the weights; black where it is exactly zero.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tokenize_kit.files import atomic_write
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.pixelcnn import PixelCNN

KINDS = ("original", "gated")
SPREAD = 0.2
"""Of the noise on all weights: those of a fresh model let nothing through its later layers."""
TENS = 8
"""How many powers of ten below the strongest gradient the picture shows."""


def strengths(kind: str, layers: int, kernel: int, models: int) -> NDArray[np.float64]:
    """Return how strongly the middle pixel of the last row depends on all of a picture, (field + 1, 2 * field + 1)."""
    total: NDArray[np.float64] | None = None
    for seed in range(models):
        torch.manual_seed(seed)
        values = {
            "kind": kind,
            "layers": layers,
            "kernel": kernel,
            "first_kernel": kernel,
            "width": 16,
            "vocab_size": 4,
        }
        model = PixelCNN.from_config({**values, "context": 1 << 16})
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * SPREAD)
        model.double()
        field = model.config.field
        height, width = field + 1, 2 * field + 1
        rows, columns = np.divmod(np.arange(height * width), width)
        cells = np.stack(np.broadcast_arrays(0, rows, columns, 0, height, width, 1, 0), -1)
        ids = torch.randint(0, 4, (1, height * width))
        embedded = model.embedding(ids).detach().requires_grad_()
        handle = model.embedding.register_forward_hook(lambda *_, found=embedded: found)
        logits = model.logits(Inputs(ids, cells=torch.from_numpy(cells)[None]))
        handle.remove()
        # The place before a pixel has its logits: that of the middle of the last row.
        (gradient,) = torch.autograd.grad(logits[0, field * width + field].square().sum(), embedded)
        found = gradient[0].norm(dim=-1).numpy()
        # The first token is no pixel; the last pixel is not among the inputs.
        picture = np.append(found[1:], 0.0).reshape(height, width)
        total = picture if total is None else total + picture
    assert total is not None
    return total / models


def draw(pictures: dict[str, NDArray[np.float64]], title: str, out: Path) -> None:
    """Write the pictures side by side as a PNG file."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, (kind, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        field = len(picture) - 1
        with np.errstate(divide="ignore"):
            tens = np.log10(picture / picture.max())
        shown = np.ma.masked_where(~np.isfinite(tens), tens)
        axes.set_facecolor("black")
        extent = (-field - 0.5, field + 0.5, 0.5, -field - 0.5)
        image = axes.imshow(shown, cmap="viridis", vmin=-TENS, vmax=0, extent=extent, interpolation="nearest")
        axes.plot(0, 0, marker="s", color="red", markersize=4)
        axes.set(title=kind, xlabel="column", ylabel="row")
    figure.colorbar(image, ax=figure.axes, label="gradient, powers of ten")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    with atomic_write(out) as file:
        file.write(content.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("blind_spot.png"))
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8, 12])
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--models", type=int, default=2, help="draws of the weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"kernel {given.kernel}x{given.kernel}; pixels above the one that is predicted, within the field")
    print(f"{'layers':>6} {'field':>6} {'pixels':>7} {'unseen: original':>17} {'':>6} {'gated':>7}")
    for layers in sorted(given.layers):
        pictures = {kind: strengths(kind, layers, given.kernel, given.models) for kind in KINDS}
        above = pictures["gated"][:-1].size
        unseen = {kind: int((picture[:-1] == 0).sum()) for kind, picture in pictures.items()}
        share = unseen["original"] / above
        field = len(pictures["gated"]) - 1
        print(
            f"{layers:>6} {field:>6} {above:>7,} {unseen['original']:>17,} {share:>6.1%} {unseen['gated']:>7,}",
            flush=True,
        )
    draw(pictures, f"What a pixel (red) sees: {layers} layers of {given.kernel}x{given.kernel}", given.out)
    print(f"picture: {given.out}")


if __name__ == "__main__":
    main()
