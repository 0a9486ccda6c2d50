"""Models of other libraries as targets, and the predictor as an estimator of scikit-learn.

Each adapter asks for its library only when it is called; ``pip install 'forgetcast[transformers]'``, ``[lightning]`` or
``[skorch]`` brings it.
"""

from __future__ import annotations

from forgetcast.adapters.hugging_face import from_transformers
from forgetcast.adapters.lightning_modules import from_lightning
from forgetcast.adapters.regressor import DifficultyRegressor
from forgetcast.adapters.skorch_nets import from_skorch

__all__ = ["DifficultyRegressor", "from_lightning", "from_skorch", "from_transformers"]
