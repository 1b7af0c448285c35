# Its functions are made when it is imported, from the compute kernels that Arrow has.
from typing import Any

def __getattr__(name: str) -> Any: ...
