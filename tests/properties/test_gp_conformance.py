"""scikit-learn's own checks of estimators."""

import warnings

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernelpot.properties.classifier import Classifier
from kernelpot.properties.gp import GP


@pytest.mark.slow
@parametrize_with_checks([GP(search={"starts": 1}), Classifier(search={"starts": 1})])
def test_estimator(estimator, check):
    with warnings.catch_warnings():
        # The checks themselves feed complex and object arrays.
        warnings.simplefilter("default")
        check(estimator)
