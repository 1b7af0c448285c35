"""Search of hyper-parameters on a narrow model: the space, the folder of trials, and the workers that train them (docs/search.md)."""
