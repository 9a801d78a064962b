"""scikit-learn's names, and rows to fit to. Tests have them by `late.sk`: to import them takes a second and a half."""

from __future__ import annotations

from typing import Any

import numpy as np
import skops.io as skops_io
from skl2onnx import to_onnx
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

__all__ = [
    "ColumnTransformer",
    "GridSearchCV",
    "LinearRegression",
    "LogisticRegression",
    "Odd",
    "OneHotEncoder",
    "RandomForestClassifier",
    "SimpleImputer",
    "StandardScaler",
    "TfidfVectorizer",
    "X",
    "Y",
    "load_iris",
    "make_pipeline",
    "skops_io",
    "to_onnx",
]

X, Y = load_iris(return_X_y=True)


class Odd(BaseEstimator):  # type: ignore[misc]
    """Of a module that skops does not know."""

    def fit(self, rows: Any, answers: Any = None) -> Odd:
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        return np.zeros(1)
