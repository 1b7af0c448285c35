"""Hide PyTorch from commands that tests start, as where requirements.txt alone is installed.

TensorBoardX imports it where it is there, which takes longer than jax.
"""

import sys

sys.modules["torch"] = None
