"""`python reference.py FILE` writes the outputs of all cases on this backend to an .npz file."""

import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder of this file is on the path already
    from cases import LAYERS, MODELS, outputs

    arrays = {f"{name}/{n}": x for name, case in (LAYERS | MODELS).items() for n, x in enumerate(outputs(case))}
    np.savez(sys.argv[1], **arrays)
