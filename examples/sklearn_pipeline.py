"""scikit-learn: a sparse network in a pipeline, its sparsity chosen by cross-validation."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sparsecore.interop.sklearn import SparseMLPClassifier


def main() -> None:
    x, x_test, y, y_test = train_test_split(*load_digits(return_X_y=True), random_state=0)
    model = make_pipeline(MinMaxScaler(), SparseMLPClassifier((128,), max_iter=60, random_state=0))
    search = GridSearchCV(model, {"sparsemlpclassifier__sparsity": [0.8, 0.9, 0.95]}, cv=3).fit(x, y)
    accuracy = np.mean(search.predict(x_test) == y_test)
    print(search.best_params_, f"test accuracy {accuracy:.1%}")
    assert accuracy > 0.9


if __name__ == "__main__":
    main()
