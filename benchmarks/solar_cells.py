"""The photographs of the PyPI package elpv-dataset as a folder of images, one folder a class.

    pip install elpv-dataset                                        # non-commercial licence
    python benchmarks/solar_cells.py work/raw/solar-cells

Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", 2019. A cell counts as defective where the experts' probability is at
least a half.
"""

from pathlib import Path

import click
from PIL import Image


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Write FOLDER/functional and FOLDER/defective."""
    from elpv_dataset.utils import load_dataset

    images, probabilities, _ = load_dataset()
    for number, (pixels, probability) in enumerate(zip(images, probabilities, strict=True)):
        path = folder / ("defective" if probability >= 0.5 else "functional") / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    click.echo(f"{folder}: {len(images):,} images")


if __name__ == "__main__":
    main()
