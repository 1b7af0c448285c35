"""Search of hyper-parameters on a narrow model: space, trials, ranking, transfer to other widths, prediction of losses (docs/search.md)."""
