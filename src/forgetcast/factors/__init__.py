"""Factors: what is measured on a trained model and its data, one number per training sample.

One file per family. Every factor is a pure function of probes (``forgetcast.probes``) and comes in through the entry
point group ``forgetcast.factors``, the built-in ones included.
"""

from forgetcast.factors.factor import Factor, factor
from forgetcast.factors.table import FactorTable, factor_table, quantile_column

__all__ = ["Factor", "FactorTable", "factor", "factor_table", "quantile_column"]
