import pathlib
import sys

# The examples are programs of their own that import each other by name, as `python examples/debian_text.py` has it.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))
