"""Parameters of kernels in scikit-learn's way, those of frozen settings inside them included."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, Self

from sklearn.base import BaseEstimator

from kernelpot.errors import ParameterError


class Parameterised(BaseEstimator):
    """Names parameters of frozen dataclasses as it does those of estimators: ``kernel__length``, ``elements__n``."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return parameters by name; with `deep` those of the parameters as well."""
        params: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            for name in self._get_param_names():
                value = getattr(self, name)
                if is_dataclass(value) and not isinstance(value, type):
                    params |= {f"{name}__{f.name}": getattr(value, f.name) for f in fields(value) if f.init}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; a frozen dataclass is replaced by one with the new value.

        Raises
        ------
        ParameterError
            A new value breaks its rule, or there is no parameter of this name.
        """
        inner: dict[str, dict[str, Any]] = {}
        outer = {}
        for name, value in params.items():
            head, _, tail = name.partition("__")
            held = params.get(head, getattr(self, head, None))
            if tail and is_dataclass(held) and tail in {f.name for f in fields(held) if f.init}:
                inner.setdefault(head, {})[tail] = value
            else:
                outer[name] = value
        try:
            super().set_params(**outer)
        except (ValueError, AttributeError) as error:
            if isinstance(error, ParameterError):
                raise
            known = ", ".join(sorted(self.get_params()))
            raise ParameterError(f"there is no parameter {', '.join(outer)}; the parameters are {known}.") from None
        for head, changes in inner.items():
            setattr(self, head, replace(getattr(self, head), **changes))
        return self
